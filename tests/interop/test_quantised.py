# SPDX-License-Identifier: Apache-2.0
"""Weights in few bits: NF4 against bitsandbytes, fp8 and int8 against PyTorch's own arithmetic."""

import subprocess

import bitsandbytes.functional as bnb
import pytest
import torch
from programs import program
from safetensors.torch import load_file, save_file


def quantised(folder, w, form):
    save_file({"w": w}, folder / "w.safetensors")
    subprocess.run([program("quantise_dump"), folder / "w.safetensors", folder / "q.safetensors", form], check=True)
    return load_file(folder / "q.safetensors")


def matrix(out, inner, spread):
    """Normal numbers whose rows differ in size by up to a factor e^spread."""
    random = torch.Generator().manual_seed(out + inner)
    size = torch.exp(spread * torch.rand(out, 1, generator=random))
    return 0.02 * size * torch.randn(out, inner, generator=random)


# Rows of whole blocks; blocks that go on over the ends of rows; less than a block; a last block that is short.
@pytest.mark.parametrize("out, inner", [(96, 512), (300, 160), (3, 10), (7, 90)])
@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_nf4_is_that_of_bitsandbytes(tmp_path, out, inner, spread):
    w = matrix(out, inner, spread)
    ours = quantised(tmp_path, w, "nf4")
    packed, state = bnb.quantize_4bit(w, blocksize=64, compress_statistics=True, quant_type="nf4")
    assert torch.equal(ours["values"].flatten(), packed.flatten())
    # The mean of the magnitudes is added up in another order; magnitudes between two codes may go either way.
    assert torch.isclose(ours["scales"][-1], state.offset, rtol=1e-6)
    torch.testing.assert_close(ours["scales"][:-1], state.state2.absmax, rtol=1e-5, atol=1e-8)
    codes = state.absmax.flatten().int()
    # Alone a magnitude is the mean, and nothing is left for its code to say.
    off = (ours["blocks"].int() - codes).abs() if len(codes) > 1 else torch.zeros(1)
    assert off.max() <= 1 and (off > 0).sum() <= 2 + 0.002 * len(codes)
    same = (off == 0).repeat_interleave(64)[: out * inner].reshape(out, inner)
    theirs = bnb.dequantize_4bit(packed, state)
    torch.testing.assert_close(ours["rows"][same], theirs[same], rtol=1e-5, atol=1e-8)


def test_nf4_reads_what_it_wrote_as_bitsandbytes_does(tmp_path):
    """Our codes in their containers: the table of magnitudes is theirs."""
    w = matrix(128, 256, 1.0)
    ours = quantised(tmp_path, w, "nf4")
    state2 = bnb.QuantState(absmax=ours["scales"][:-1].clone(), code=bnb.create_dynamic_map(), blocksize=256, dtype=torch.float32)  # fmt: skip
    state = bnb.QuantState(
        absmax=ours["blocks"].clone(), shape=w.shape, dtype=torch.float32, blocksize=64, quant_type="nf4",
        code=bnb.get_4bit_type("nf4", device="cpu"), offset=ours["scales"][-1], state2=state2)  # fmt: skip
    theirs = bnb.dequantize_4bit(ours["values"].reshape(-1, 1), state)
    torch.testing.assert_close(ours["rows"], theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("form, largest", [("fp8", 448.0), ("int8", 127.0)])
def test_rows_have_a_factor(tmp_path, form, largest):
    w = matrix(50, 130, 3.0)
    w[7] = 0
    ours = quantised(tmp_path, w, form)
    scale = w.abs().amax(dim=1) / largest
    scale[7] = 1
    torch.testing.assert_close(ours["scales"], scale, rtol=0, atol=0)
    ratio = w / scale[:, None]
    wanted = ratio.to(torch.float8_e4m3fn).float() if form == "fp8" else ratio.round()
    torch.testing.assert_close(ours["values"].float(), wanted, rtol=0, atol=0)
    torch.testing.assert_close(ours["rows"], wanted * scale[:, None], rtol=1e-6, atol=0)
