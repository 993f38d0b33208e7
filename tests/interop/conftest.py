# SPDX-License-Identifier: Apache-2.0
"""What the comparisons share: the program, diffusers' pipeline, distances between pictures.

The pipeline and the adapters come from tests/golden/reference.py, which tests here may import too.
"""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "golden"))

from programs import TINY, program  # noqa: E402


@pytest.fixture(scope="session")
def fluxlora():
    """fluxlora(*arguments, status=0, **options of subprocess.run): runs the program, gives its stdout."""

    def run(*arguments, status=0, timeout=300, **options):
        done = subprocess.run(
            [program("fluxlora"), *map(str, arguments)], capture_output=True, text=True, timeout=timeout, **options)  # fmt: skip
        assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


@pytest.fixture
def pipe():
    """FluxPipeline of the built-in model in f32, fresh for each test, since adapters change it."""
    import reference

    return reference.load_pipeline(TINY)


def _psnr(a, b):
    """Peak signal-to-noise ratio in dB of two u8 pictures (H, W, 3)."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape, (a.shape, b.shape)
    error = np.mean((a - b) ** 2)
    return np.inf if error == 0 else 10 * np.log10(255.0**2 / error)


@pytest.fixture(scope="session")
def psnr():
    return _psnr
