# SPDX-License-Identifier: Apache-2.0
"""Our safetensors reader and writer against the Python library, number formats against torch."""

import subprocess

import pytest
import torch
from programs import program
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
INTEGERS = {
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def copy(source, target, *dtype):
    return subprocess.run(
        [program("safetensors_copy"), source, target, *dtype], capture_output=True, text=True
    )


def random_tensors(seed):
    """Some tensors of every type, shapes from rank 0 to 4, names that need escapes."""
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for i, (name, dtype) in enumerate((FLOATS | INTEGERS).items()):
        for rank in range(5):
            shape = torch.randint(0 if rank == 3 else 1, 4, (rank,), generator=random).tolist()
            values = torch.randint(0, 2, shape, generator=random)
            if name in FLOATS:
                values = torch.randn(shape, generator=random)
            prefix = ["blocks.", "A", "z/", "\u00e9\u4e2d", 'quote"\\', "tab\t\x01"][(i + rank) % 6]
            tensors[f"{prefix}{name}.{rank}"] = values.to(dtype)
    return tensors


# The library writes metadata in the order of a hash map, so equal bytes can be asked for with at
# most one entry.
@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"k\u00e9": 'v"\\\n\x01\x7f\u20ac'}])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_same_bytes_as_the_library(tmp_path, seed, metadata):
    save_file(random_tensors(seed), tmp_path / "theirs", metadata=metadata)
    result = copy(tmp_path / "theirs", tmp_path / "ours")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_the_library_reads_ours(tmp_path):
    tensors = random_tensors(4)
    metadata = {f"key{i}": f"value {i}" for i in range(20)}
    save_file(tensors, tmp_path / "theirs", metadata=metadata)
    assert copy(tmp_path / "theirs", tmp_path / "ours").returncode == 0
    with safe_open(tmp_path / "ours", "pt") as file:
        assert file.metadata() == metadata
    loaded = load_file(tmp_path / "ours")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and loaded[name].shape == tensor.shape
        assert torch.equal(loaded[name].view(torch.uint8) if tensor.dim() else loaded[name],
                           tensor.view(torch.uint8) if tensor.dim() else tensor)


def test_both_refuse_the_same_damage(tmp_path):
    """One byte of the header changed: what the library refuses, we refuse; what both accept, both
    see alike."""
    save_file({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    random = torch.Generator().manual_seed(5)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        place = int(torch.randint(0, header, (1,), generator=random))
        damaged[place] = int(torch.randint(32, 127, (1,), generator=random))
        (tmp_path / "damaged").write_bytes(damaged)
        result = copy(tmp_path / "damaged", tmp_path / "ours")
        assert result.returncode in (0, 2), result.stderr
        refused += result.returncode
        try:
            theirs = load_file(tmp_path / "damaged")
        except SafetensorError:
            assert result.returncode == 2
            continue
        if result.returncode == 0:
            ours = load_file(tmp_path / "ours")
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[k].float(), theirs[k].float()) for k in ours)
    assert refused > 100  # most changes of the header break it


@pytest.mark.parametrize("name", ["BF16", "F16", "F8_E4M3", "F8_E5M2"])
def test_every_code_is_decoded_as_torch_does(tmp_path, name):
    small = FLOATS[name].itemsize == 1
    codes = torch.arange(256 if small else 65536).to(torch.uint8 if small else torch.uint16)
    values = codes.view(FLOATS[name])
    save_file({"x": values}, tmp_path / "in")
    for wide in ("F32", "F64"):
        assert copy(tmp_path / "in", tmp_path / "out", wide).returncode == 0
        ours, theirs = load_file(tmp_path / "out")["x"], values.to(FLOATS[wide])
        assert torch.equal(ours.isnan(), theirs.isnan())
        assert torch.equal(ours.nan_to_num(), theirs.nan_to_num())
        known = ~theirs.isnan()
        assert torch.equal(ours[known].signbit(), theirs[known].signbit())


@pytest.mark.parametrize("name", ["BF16", "F16"])
def test_rounding_as_torch_does(tmp_path, name):
    """Random bit patterns (every exponent, NaN, infinity) and values near the codes' middles."""
    random = torch.Generator().manual_seed(6)
    bits = torch.randint(-(2**31), 2**31, (200_000,), generator=random).to(torch.int32)
    near = torch.arange(65536).to(torch.uint16).view(FLOATS[name]).float()
    middle = (near + near.roll(1)) / 2
    inf = torch.tensor(float("inf"))
    values = torch.cat([bits.view(torch.float32), middle, torch.nextafter(middle, inf),
                        torch.nextafter(middle, -inf)])
    save_file({"x": values}, tmp_path / "in")
    assert copy(tmp_path / "in", tmp_path / "out", name).returncode == 0
    ours, theirs = load_file(tmp_path / "out")["x"], values.to(FLOATS[name])
    assert torch.equal(ours.isnan(), theirs.isnan())
    known = ~theirs.isnan()
    assert torch.equal(ours[known].view(torch.int16), theirs[known].view(torch.int16))
