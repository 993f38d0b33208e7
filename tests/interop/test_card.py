# SPDX-License-Identifier: Apache-2.0
"""The folder that `fluxlora card` makes, read by Hugging Face's own library, which `hf upload` is part of."""

import pathlib

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.utils import filter_repo_objects
from PIL import Image
from programs import ROOT
from safetensors import safe_open

TRIGGER = 'zorbot "the: 1st" #x'
PROMPTS = ["a [trigger] on a beach", "- a colon: and 'quotes'\\"]


@pytest.fixture(scope="module")
def run(fluxlora, tmp_path_factory):
    """A run of one step whose words need quoting in YAML."""
    folder = tmp_path_factory.mktemp("card")
    config = folder / "config.toml"
    config.write_text(f"""
[model]
path = "tiny"
text_tokens = 16
[subject]
name = "my zorbot"
trigger = '{TRIGGER}'
[dataset]
path = "{ROOT}/assets/sample-dataset"
resolution = 64
cache = "{folder}/cache"
[train]
steps = 1
[sample]
every = 1
steps = 1
prompts = ['{PROMPTS[0]}', '''{PROMPTS[1]}''']
[output]
path = "{folder}/run"
""")
    fluxlora("train", config, "--device", "cpu")
    return folder / "run"


def test_hub_reads_the_card(fluxlora, run, tmp_path):
    output = tmp_path / "out"
    fluxlora("card", run, "--output", output, "--base", "black-forest-labs/FLUX.1-dev")
    data = ModelCard.load(output / "README.md").data
    assert data.base_model == "black-forest-labs/FLUX.1-dev"
    assert data.instance_prompt == TRIGGER
    assert data.license == "other" and data.license_name == "flux-1-dev-non-commercial-license"
    assert data.library_name == "diffusers" and data.pipeline_tag == "text-to-image"
    assert {"text-to-image", "lora", "diffusers"} <= set(data.tags)
    assert [w["text"] for w in data.widget] == [PROMPTS[0].replace("[trigger]", TRIGGER), PROMPTS[1]]
    for widget in data.widget:
        assert Image.open(output / widget["output"]["url"]).size == (64, 64)


def test_folder_holds_what_is_pushed_and_no_more(fluxlora, run):
    fluxlora("card", run)
    files = [p.relative_to(run / "card").as_posix() for p in (run / "card").rglob("*") if p.is_file()]
    assert sorted(filter_repo_objects(files)) == ["README.md", "images/0.png", "images/1.png", "my zorbot.safetensors"]
    with safe_open(run / "card" / "my zorbot.safetensors", "pt") as lora:
        assert len(lora.keys()) > 0
    data = ModelCard.load(run / "card" / "README.md").data
    assert data.license == "apache-2.0" and data.base_model is None, "the built-in model is not on the hub"
    assert "<Gallery />" in pathlib.Path(run / "card" / "README.md").read_text()
    fluxlora("card", run, status=2)  # never over something that is there
