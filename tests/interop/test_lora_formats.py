# SPDX-License-Identifier: Apache-2.0
"""`fluxlora convert`: real key lists there and back, and other programs as readers."""

import lora_keys as keys
import pytest
import torch
from programs import TINY
from safetensors import safe_open
from safetensors.torch import load_file, save_file

WIDTH = 24  # of the lists that only our own program reads
LISTS = {
    "kohya": (keys.kohya, "kohya", 304, True),
    "kohya with text encoders": (lambda w: keys.kohya(w, text=True), "kohya", 304 + 72 + 168, False),
    "ai-toolkit": (keys.ai_toolkit, "ai-toolkit", 494, True),
    "diffusers": (keys.diffusers, "diffusers", 342, True),
    "SimpleTuner": (keys.simpletuner, "diffusers", 266, True),
    "XLabs": (keys.xlabs, "xlabs", 19 * 4 + 38 * 2, True),
} | {
    f"OneTrainer, {form}": (lambda w, form=form: keys.onetrainer(w, form), form, 494 + 72 + 168, False)
    for form in keys.ONETRAINER
}  # fmt: skip
WITHOUT_TEXT = ["peft", "bfl", "simpletuner-lycoris"]
LAYOUTS = ["diffusers", "kohya", "comfyui", "onetrainer", "onetrainer-dotted", "onetrainer-omi",
           "onetrainer-omi-old"]  # fmt: skip
METADATA = {"ss_network_dim": "4", "sshs_model_hash": "to be made anew", "modelspec.title": "a test"}


def metadata_of(path):
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype and got[name].shape == tensor.shape, name
        assert torch.equal(got[name].view(torch.uint8).reshape(-1) if tensor.dim() else got[name],
                           tensor.view(torch.uint8).reshape(-1) if tensor.dim() else tensor), name  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
def test_every_list_survives_every_layout(fluxlora, tmp_path, name):
    make, own, count, transformer_alone = LISTS[name]
    tensors = make(WIDTH)
    assert sum(k.endswith(("lora_A.weight", "lora_down.weight", ".down.weight")) for k in tensors) == count
    first = tmp_path / "first.safetensors"
    save_file(tensors, first, METADATA)
    # Through our own writer once, so that the hashes are those of the tensors.
    start = tmp_path / "start.safetensors"
    fluxlora("convert", first, "--to", own, "--output", start)
    assert_same(load_file(start), tensors)
    for layout in LAYOUTS + (WITHOUT_TEXT if transformer_alone else []):
        there, back = tmp_path / f"there-{layout}", tmp_path / "back.safetensors"
        exact = fluxlora("convert", start, "--to", layout, "--output", there)
        assert "the same change exactly" in exact
        fluxlora("convert", there, "--to", own, "--output", back)
        assert_same(load_file(back), tensors)
        assert metadata_of(back) == metadata_of(start), layout


def test_hashes_are_those_of_sd_scripts(fluxlora, tmp_path):
    import hashlib

    tensors = keys.kohya(WIDTH)
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(tensors, source, METADATA)
    fluxlora("convert", source, "--to", "kohya", "--output", target)
    save_file(tensors, source, {"ss_network_dim": "4"})
    data = source.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    got = metadata_of(target)
    assert got["sshs_model_hash"] == hashlib.sha256(data[header:]).hexdigest()
    assert got["sshs_legacy_hash"] == hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]


def tiny_lora(path, dtype=torch.float32):
    """A kohya file for every block layer of the built-in model, alpha / rank = 1/2."""
    writer = keys.Writer(*keys.KOHYA, dtype, alpha=2.0, rank=4, seed=9)
    for bfl, parts, columns in keys.layers(2, 5):
        writer.add("lora_unet_" + bfl.replace(".", "_"), sum(r for _, r in parts) * 160, columns * 160)
    save_file(writer.tensors, path)
    return writer.tensors


def expected_changes(tensors, depth, depth_single, width):
    """By diffusers' module: alpha / rank B A of a kohya file, in f64."""
    changes = {}
    for bfl, parts, _ in keys.layers(depth, depth_single):
        stem = "lora_unet_" + bfl.replace(".", "_")
        a, b = tensors[stem + ".lora_down.weight"].double(), tensors[stem + ".lora_up.weight"].double()
        change = tensors[stem + ".alpha"].double() / a.shape[0] * b @ a
        for (module, rows), piece in zip(parts, change.split([r * width for _, r in parts])):
            changes[module] = piece
    return changes


def assert_changes(weights, base, changes):
    """Every module's weight is the base's plus its change, to 1e-5 of the change."""
    for module, change in changes.items():
        got = weights[module + ".weight"].double() - base[module + ".weight"].double()
        # f32 keeps the sum to 6e-8 of the weight, which is of the change's size here.
        assert (got - change).norm() < 1e-5 * change.norm(), module


@pytest.mark.parametrize("layout", ["diffusers", "ai-toolkit"])
def test_diffusers_merges_the_same_weights(fluxlora, pipe, tmp_path, layout):
    tensors = tiny_lora(tmp_path / "k.safetensors")
    base = {k: v.clone() for k, v in pipe.transformer.state_dict().items()}
    fluxlora("convert", tmp_path / "k.safetensors", "--to", layout, "--output", tmp_path / "d.safetensors")
    pipe.load_lora_weights(str(tmp_path / "d.safetensors"))
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    assert_changes(pipe.transformer.state_dict(), base, expected_changes(tensors, 2, 5, 160))


def test_peft_merges_the_same_weights(fluxlora, tmp_path):
    from diffusers import FluxTransformer2DModel
    from peft import PeftModel

    tensors = tiny_lora(tmp_path / "k.safetensors")
    fluxlora("convert", tmp_path / "k.safetensors", "--to", "peft", "--output", tmp_path / "peft")
    model = FluxTransformer2DModel.from_pretrained(TINY / "transformer")
    base = {k: v.clone() for k, v in model.state_dict().items()}
    merged = PeftModel.from_pretrained(model, str(tmp_path / "peft")).merge_and_unload()
    assert_changes(merged.state_dict(), base, expected_changes(tensors, 2, 5, 160))


@pytest.mark.parametrize("layout", ["diffusers", "kohya", "comfyui", "xlabs"])
def test_diffusers_reads_the_layouts_of_others(fluxlora, tmp_path, layout):
    """Through its own converters, which know FLUX.1's width alone: two blocks of each kind."""
    from diffusers import FluxPipeline

    tensors = keys.kohya(3072)
    kept = {k: v for k, v in tensors.items() if "_blocks_0_" in k}
    if layout == "xlabs":  # it has no processors for the rest
        kept = {k: v for k, v in kept.items() if "attn" in k}
    save_file(kept, tmp_path / "k.safetensors")
    fluxlora("convert", tmp_path / "k.safetensors", "--to", layout, "--output", tmp_path / "x.safetensors", "--dtype", "f32")  # fmt: skip
    state = FluxPipeline.lora_state_dict(str(tmp_path / "x.safetensors"))
    state = state[0] if isinstance(state, tuple) else state
    found = {}
    for key in state:
        assert key.startswith("transformer.") and key.endswith((".lora_A.weight", ".lora_B.weight")), key
        found[key.removeprefix("transformer.").removesuffix(".lora_A.weight").removesuffix(".lora_B.weight")] = True
    expected = expected_changes(kept | {k: v for k, v in tensors.items()}, 1, 1, 3072)
    expected = {m: c for m, c in expected.items() if layout != "xlabs" or (m.startswith("transformer") and ".attn." in m)}  # fmt: skip
    assert found.keys() == expected.keys()
    for module, change in expected.items():
        a, b = (state[f"transformer.{module}.lora_{x}.weight"].double() for x in "AB")
        assert (b @ a - change).norm() < 1e-5 * change.norm(), module


def test_kohya_and_comfyui_get_the_keys_that_they_know(fluxlora, tmp_path):
    """ComfyUI: comfy/lora.py, model_lora_keys_unet: "lora_unet_" and "diffusion_model." + BFL's names,
    comfy/weight_adapter/lora.py: lora_up/lora_down with alpha. kohya: networks/lora_flux.py."""
    save_file(keys.ai_toolkit(WIDTH), tmp_path / "a.safetensors")
    modules = [bfl for bfl, _, _ in keys.layers()]
    for layout, name in (("kohya", keys.under("lora_unet_")), ("comfyui", keys.dotted("diffusion_model."))):
        fluxlora("convert", tmp_path / "a.safetensors", "--to", layout, "--output", tmp_path / "b.safetensors")
        expected = {name(m) + ending for m in modules for ending in (*keys.KOHYA, ".alpha")}
        assert load_file(tmp_path / "b.safetensors").keys() == expected


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_dtype(fluxlora, tmp_path, dtype):
    tiny_lora(tmp_path / "k.safetensors")
    fluxlora("convert", tmp_path / "k.safetensors", "--to", "comfyui", "--output", tmp_path / "b.safetensors", "--dtype", dtype)  # fmt: skip
    wanted = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[dtype]
    assert {t.dtype for t in load_file(tmp_path / "b.safetensors").values()} == {wanted}


def test_dora_and_lokr(fluxlora, tmp_path):
    dora = {}
    for k, v in keys.kohya(WIDTH).items():
        dora[k] = v
        if k.endswith("lora_up.weight"):
            dora[k.replace("lora_up.weight", "dora_scale")] = torch.rand(v.shape[0], 1) + 0.5
    save_file(dora, tmp_path / "dora.safetensors")
    for layout in ("diffusers", "onetrainer", "comfyui"):
        fluxlora("convert", tmp_path / "dora.safetensors", "--to", layout, "--output", tmp_path / "there.safetensors")
        fluxlora("convert", tmp_path / "there.safetensors", "--to", "kohya", "--output", tmp_path / "back.safetensors")
        assert_same(load_file(tmp_path / "back.safetensors"), dora)
    lokr = {}
    for _, parts, columns in keys.layers():
        for module, rows in parts:
            stem = "lycoris_" + module.replace(".", "_")
            lokr[stem + ".lokr_w1"] = torch.randn(4, 4)
            lokr[stem + ".lokr_w2_a"] = torch.randn(rows * WIDTH // 4, 2)
            lokr[stem + ".lokr_w2_b"] = torch.randn(2, columns * WIDTH // 4)
            lokr[stem + ".alpha"] = torch.tensor(1.0)
    save_file(lokr, tmp_path / "lokr.safetensors")
    for layout in ("onetrainer", "onetrainer-omi", "diffusers"):
        fluxlora("convert", tmp_path / "lokr.safetensors", "--to", layout, "--output", tmp_path / "there.safetensors")
        fluxlora("convert", tmp_path / "there.safetensors", "--to", "simpletuner-lycoris", "--output", tmp_path / "back.safetensors")  # fmt: skip
        assert_same(load_file(tmp_path / "back.safetensors"), lokr)
    # q, k and v of a LoKr cannot become one Kronecker product.
    fluxlora("convert", tmp_path / "lokr.safetensors", "--to", "kohya", "--output", tmp_path / "x", status=2)
