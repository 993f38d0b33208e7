# SPDX-License-Identifier: Apache-2.0
"""Each layout that is written, in each program that reads it: every key is used, and the change is the same to 1e-5.
ComfyUI and sd-scripts are in no registry: readers.py says what they do. diffusers and PEFT stand in test_lora_formats.py."""

import lora_keys as keys
import pytest
import readers
import torch
from programs import ROOT
from safetensors.torch import load_file, save_file

DEPTH, SINGLE, WIDTH = 2, 5, 160  # the built-in model's
COMFYUI = ["diffusers", "ai-toolkit", "kohya", "comfyui", "onetrainer", "simpletuner-lycoris"]
OTHERS = ["bfl", "onetrainer-dotted", "onetrainer-omi", "onetrainer-omi-old"]


def layer_sizes():
    sizes = {bfl: (sum(r for _, r in parts) * WIDTH, columns * WIDTH)
             for bfl, parts, columns in keys.layers(DEPTH, SINGLE)}  # fmt: skip
    base = load_file(ROOT / "assets/tiny-flux/transformer/diffusion_pytorch_model.safetensors")
    outside = {bfl: tuple(base[module + ".weight"].shape) for bfl, module in readers.OUTSIDE.items()}
    return sizes | outside


def fused_lora(path, sizes):
    """A file in kohya's names of all these layers, alpha / rank = 1/2."""
    writer = keys.Writer(*keys.KOHYA, torch.float32, alpha=2.0, rank=4, seed=11)
    for bfl, (rows, columns) in sizes.items():
        writer.add("lora_unet_" + bfl.replace(".", "_"), rows, columns)
    save_file(writer.tensors, path)
    return {bfl: readers.product(writer.tensors, *(f"lora_unet_{bfl.replace('.', '_')}.{end}"
            for end in ("lora_up.weight", "lora_down.weight", "alpha"))) for bfl in sizes}  # fmt: skip


def assert_same_changes(got, expected):
    assert got.keys() == expected.keys()
    for layer, change in expected.items():
        assert (got[layer] - change).norm() <= 1e-5 * change.norm(), layer


@pytest.mark.parametrize("layout", COMFYUI)
def test_comfyui_reads_every_key(fluxlora, tmp_path, layout):
    sizes = layer_sizes()
    expected = fused_lora(tmp_path / "k.safetensors", sizes)
    fluxlora("convert", tmp_path / "k.safetensors", "--to", layout, "--output", tmp_path / "x.safetensors")
    changes, unread = readers.comfyui_reads(load_file(tmp_path / "x.safetensors"), DEPTH, SINGLE, WIDTH, sizes)
    assert not unread
    assert_same_changes(changes, expected)


@pytest.mark.parametrize("layout", OTHERS)
def test_comfyui_does_not_know_the_others(fluxlora, tmp_path, layout):
    """As docs/formats.md says; a change here is news for that table."""
    sizes = layer_sizes()
    fused_lora(tmp_path / "k.safetensors", sizes)
    fluxlora("convert", tmp_path / "k.safetensors", "--to", layout, "--output", tmp_path / "x.safetensors")
    changes, _ = readers.comfyui_reads(load_file(tmp_path / "x.safetensors"), DEPTH, SINGLE, WIDTH, sizes)
    assert not changes


def test_sd_scripts_read_every_key(fluxlora, tmp_path):
    sizes = {bfl: size for bfl, size in layer_sizes().items() if "blocks" in bfl}
    expected = fused_lora(tmp_path / "k.safetensors", sizes)
    fluxlora("convert", tmp_path / "k.safetensors", "--to", "diffusers", "--output", tmp_path / "d.safetensors")
    fluxlora("convert", tmp_path / "d.safetensors", "--to", "kohya", "--output", tmp_path / "x.safetensors")
    changes, unread = readers.kohya_reads(load_file(tmp_path / "x.safetensors"), DEPTH, SINGLE)
    assert not unread
    assert_same_changes(changes, expected)


def train(fluxlora, folder, *settings):
    """A run of two steps on the default layers; its LoRA."""
    config = folder / "config.toml"
    config.write_text(f"""
[model]
path = "tiny"
text_tokens = 16
[subject]
name = "run"
trigger = "zorbot"
[dataset]
path = "{ROOT}/assets/sample-dataset"
resolution = 64
[lora]
rank = 4
alpha = 6
[train]
steps = 2
[sample]
every = 0
[validate]
every = 0
""")
    words = [word for setting in settings for word in ("--set", setting)]
    fluxlora("train", config, "--device", "cpu", "--set", f"output.path={folder}/run", *words)
    return load_file(folder / "run" / "run.safetensors")


@pytest.fixture(scope="module")
def changes_of_a_run(fluxlora, tmp_path_factory):
    """In diffusers' names, f32."""
    tensors = train(fluxlora, tmp_path_factory.mktemp("diffusers"))
    changes, unread = readers.comfyui_reads(tensors, DEPTH, SINGLE, WIDTH, layer_sizes())
    assert not unread and len(changes) == 2 * 8 + 5 * 2
    return changes


@pytest.mark.parametrize("layout", ["kohya", "comfyui", "onetrainer"])
def test_a_run_writes_the_layout_itself(fluxlora, tmp_path, changes_of_a_run, layout):
    """What a program reads of a run's file is what a run of the same seed says in diffusers' names."""
    tensors = train(fluxlora, tmp_path, f'output.format="{layout}"')
    changes, unread = readers.comfyui_reads(tensors, DEPTH, SINGLE, WIDTH, layer_sizes())
    assert not unread
    assert_same_changes(changes, changes_of_a_run)


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_a_run_writes_the_type(fluxlora, tmp_path, changes_of_a_run, dtype):
    tensors = train(fluxlora, tmp_path, 'output.format="kohya"', f'output.dtype="{dtype}"')
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16 if dtype == "bf16" else torch.float16}
    changes, unread = readers.kohya_reads(tensors, DEPTH, SINGLE)
    assert not unread
    for layer, change in changes_of_a_run.items():  # 2^-9 and 2^-12 of each number of A and B
        assert (changes[layer] - change).norm() < (8e-3 if dtype == "bf16" else 1e-3) * change.norm(), layer
