# SPDX-License-Identifier: Apache-2.0
"""`fluxlora resize`, `combine` and `extract` against numpy's SVD and PEFT's add_weighted_adapter."""

import re
import shutil

import lora_keys as keys
import numpy as np
import pytest
import torch
from programs import TINY
from safetensors.torch import load_file, save_file

NAMES = ["transformer_blocks.0.attn.to_q", "transformer_blocks.1.ff.net.0.proj", "single_transformer_blocks.2.proj_out"]
SHAPES = [(160, 160), (640, 160), (160, 800)]


def a_lora(path, rank, seed, alpha=None, dtype=torch.float32):
    writer = keys.Writer(*keys.PEFT, dtype, rank=rank, seed=seed)
    for name, (rows, columns) in zip(NAMES, SHAPES):
        writer.add("transformer." + name, rows, columns)
    metadata = {} if alpha is None else {"lora_adapter_metadata": f'{{"transformer.lora_alpha": {alpha}}}'}
    save_file(writer.tensors, path, metadata)
    return changes(writer.tensors, 1 if alpha is None else alpha / rank)


def changes(tensors, scale=1.0):
    pair = lambda n: (tensors[f"transformer.{n}.lora_B.weight"], tensors[f"transformer.{n}.lora_A.weight"])
    return {n: scale * (pair(n)[0].double() @ pair(n)[1].double()).numpy() for n in NAMES}


def cut(matrix, rank):
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank], (s[:rank] ** 2).sum(), (s**2).sum()


def figures(text):
    last = text.strip().splitlines()[-1]
    return float(re.search(r"energy kept ([\d.]+)", last)[1]), float(re.search(r"error ([\d.e+-]+)", last)[1])


def test_resize_is_the_best_of_its_rank(fluxlora, tmp_path):
    whole = a_lora(tmp_path / "a.safetensors", 16, 1, alpha=8)
    text = fluxlora("resize", tmp_path / "a.safetensors", "--rank", 5, "--output", tmp_path / "b.safetensors")
    got, kept, energy = changes(load_file(tmp_path / "b.safetensors")), 0, 0
    for name, matrix in whole.items():
        best, k, e = cut(matrix, 5)
        # The factors are f32: 6e-8 of their size each.
        assert np.linalg.norm(got[name] - best) < 1e-6 * np.linalg.norm(best)
        kept, energy = kept + k, energy + e
    assert figures(text)[0] == pytest.approx(kept / energy, abs=1e-6)
    assert figures(text)[1] == pytest.approx(np.sqrt(1 - kept / energy), rel=1e-2)


def test_energy_chooses_the_rank(fluxlora, tmp_path):
    whole = a_lora(tmp_path / "a.safetensors", 16, 2)
    fluxlora("resize", tmp_path / "a.safetensors", "--rank", 16, "--energy", 0.8, "--output", tmp_path / "b.safetensors")
    tensors = load_file(tmp_path / "b.safetensors")
    for name, matrix in whole.items():
        s = np.linalg.svd(matrix, compute_uv=False) ** 2
        least = int(np.searchsorted(np.cumsum(s) / s.sum(), 0.8)) + 1
        assert tensors[f"transformer.{name}.lora_A.weight"].shape[0] == least


def test_lokr_becomes_a_lora(fluxlora, tmp_path):
    w1, w2 = torch.randn(8, 8), torch.randn(20, 20)
    stem = "lycoris_transformer_blocks_0_attn_to_q"
    save_file({stem + ".lokr_w1": w1, stem + ".lokr_w2": w2}, tmp_path / "a.safetensors")
    fluxlora("resize", tmp_path / "a.safetensors", "--rank", 12, "--to", "diffusers", "--output", tmp_path / "b.safetensors")  # fmt: skip
    t = load_file(tmp_path / "b.safetensors")
    got = (t[f"transformer.{NAMES[0]}.lora_B.weight"] @ t[f"transformer.{NAMES[0]}.lora_A.weight"]).numpy()
    best, kept, _ = cut(np.kron(w1.double(), w2.double()), 12)
    # Random projections find the energy of the best cut to 1 %: two power iterations, 16 more.
    assert (got**2).sum() > 0.99 * kept


@pytest.mark.parametrize("method, peft", [("concatenate", "cat"), ("svd", "svd"), ("linear", "linear")])
def test_combine_is_what_peft_makes(fluxlora, tmp_path, method, peft):
    from peft import LoraConfig, get_peft_model

    a_lora(tmp_path / "a.safetensors", 4, 3)
    a_lora(tmp_path / "b.safetensors", 4, 4)
    rank = ["--rank", "4"] if method == "svd" else []
    fluxlora("combine", tmp_path / "a.safetensors", f"{tmp_path / 'b.safetensors'}:0.6", "--method", method, *rank, "--output", tmp_path / "c.safetensors")  # fmt: skip
    got = changes(load_file(tmp_path / "c.safetensors"))

    class Layers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(i, o, bias=False) for o, i in SHAPES)

    model = get_peft_model(Layers(), LoraConfig(r=4, lora_alpha=4, target_modules=["0", "1", "2"]), "a")
    model.add_adapter("b", LoraConfig(r=4, lora_alpha=4, target_modules=["0", "1", "2"]))
    for adapter in "ab":
        tensors = load_file(tmp_path / f"{adapter}.safetensors")
        for layer, name in zip(model.base_model.model.layers, NAMES):
            layer.lora_A[adapter].weight.data = tensors[f"transformer.{name}.lora_A.weight"]
            layer.lora_B[adapter].weight.data = tensors[f"transformer.{name}.lora_B.weight"]
    model.add_weighted_adapter(["a", "b"], [1.0, 0.6], "c", combination_type=peft, svd_rank=4)
    for layer, name in zip(model.base_model.model.layers, NAMES):
        expected = layer.get_delta_weight("c").detach().double().numpy()
        # f32 sums of another order; PEFT's SVD is f32 too.
        assert np.linalg.norm(got[name] - expected) < 1e-5 * np.linalg.norm(expected)


def test_extract_finds_what_was_added(fluxlora, tmp_path):
    shutil.copytree(TINY, tmp_path / "tuned")
    path = tmp_path / "tuned/transformer/diffusion_pytorch_model.safetensors"
    path.chmod(0o644)
    tensors = {k: v.float() for k, v in load_file(path).items()}
    added = a_lora(tmp_path / "a.safetensors", 6, 5)
    for name, change in added.items():
        tensors[name + ".weight"] += torch.from_numpy(change).float()
    save_file(tensors, path, {"format": "pt"})
    text = fluxlora("extract", "--base", "tiny", "--tuned", tmp_path / "tuned", "--rank", 6, "--dtype", "f32", "--output", tmp_path / "b.safetensors")  # fmt: skip
    got = load_file(tmp_path / "b.safetensors")
    # q shares a fused layer with k and v, whose rows come out as noise of f32.
    found = {k.removeprefix("transformer.").rsplit(".", 2)[0] for k in got}
    assert set(NAMES) <= found <= set(NAMES) | {NAMES[0].replace("to_q", x) for x in ("to_k", "to_v")}
    for name, change in added.items():
        found = got[f"transformer.{name}.lora_B.weight"].double() @ got[f"transformer.{name}.lora_A.weight"].double()
        # The tuned weights are f32 sums, 6e-8 of a weight that is larger than its change.
        assert np.linalg.norm(found.numpy() - change) < 1e-4 * np.linalg.norm(change)
    assert figures(text)[0] > 0.9999
    fluxlora("extract", "--base", "tiny", "--tuned", "tiny", "--rank", 6, "--output", tmp_path / "x", status=2)


def test_going_on_from_a_peers_file(fluxlora, tmp_path):
    """A kohya file is the start of a run, whose first checkpoint after 0 changes is that file."""
    writer = keys.Writer(*keys.KOHYA, torch.float32, alpha=2.0, rank=4, seed=9)
    for bfl, parts, columns in keys.layers(2, 5):
        writer.add("lora_unet_" + bfl.replace(".", "_"), sum(r for _, r in parts) * 160, columns * 160)
    save_file(writer.tensors, tmp_path / "k.safetensors")
    pictures = TINY.parent / "sample-dataset"
    (tmp_path / "run.toml").write_text(
        f'[model]\npath = "tiny"\ntext_tokens = 64\n[subject]\nname = "on"\ntrigger = "zorbot"\n[dataset]\npath = "{pictures}"\n'
        '[lora]\ncontinue_from = "k.safetensors"\n[train]\nsteps = 1\nlearning_rate = 1e-30\n'
        f'[sample]\nevery = 0\n[output]\npath = "{tmp_path / "out"}"\n'
    )
    fluxlora("train", tmp_path / "run.toml", "--device", "cpu")
    fluxlora("convert", tmp_path / "out/on.safetensors", "--to", "kohya", "--output", tmp_path / "b.safetensors")
    back = load_file(tmp_path / "b.safetensors")
    for name in {k.split(".")[0] for k in writer.tensors}:
        change = lambda t: t[name + ".alpha"] / t[name + ".lora_down.weight"].shape[0] * (
            t[name + ".lora_up.weight"].double() @ t[name + ".lora_down.weight"].double())  # fmt: skip
        expected = change(writer.tensors)
        assert (change(back) - expected).norm() < 1e-6 * expected.norm()
