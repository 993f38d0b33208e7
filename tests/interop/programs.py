# SPDX-License-Identifier: Apache-2.0
"""Finds the programs that the comparisons run: $FLUXLORA_BUILD_DIR, else build/ or build-ci/."""

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = ROOT / "assets" / "tiny-flux"


def program(name):
    """Path of the built program; skips the test when it isn't built."""
    named = os.environ.get("FLUXLORA_BUILD_DIR")
    folders = [pathlib.Path(named)] if named else [ROOT / "build", ROOT / "build-ci"]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    if named:
        raise FileNotFoundError(f"{name} is not in {named}")
    pytest.skip(f"{name} is not built")


def short_run(steps, text_tokens):
    """Configuration of a LoRA called "short", with alpha twice the rank, so that a forgotten scale shows."""
    return f"""
[model]
path = "tiny"
text_tokens = {text_tokens}
[subject]
name = "short"
trigger = "zorbot"
[dataset]
path = "{ROOT}/assets/sample-dataset"
[lora]
rank = 4
alpha = 8
[train]
steps = {steps}
batch_size = 2
learning_rate = 3e-3
[sample]
every = 0
"""
