# SPDX-License-Identifier: Apache-2.0
"""Single files in every layout against the same numbers in diffusers' folder: the program must read both alike.

Nothing is lost on the way, so predictions must be equal bit for bit; for fp8 the folder holds the numbers that
Python makes of the file. The folder itself is held against diffusers once.
"""

import json
import os
import shutil
import subprocess

import model_layouts as layouts
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from PIL import Image
from programs import TINY, program
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

ROWS, COLUMNS, TOKENS = 3, 4, 7
CONTEXT, POOLED, LEVELS = 128, 64, 4


def randomise(model, seed, spread=0.02):
    """Values for every parameter, in numbers that bf16 and f16 both hold."""
    random = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        value = (mean + spread * torch.randn(p.shape, generator=random)).bfloat16().float()
        p.data = torch.where(value.abs() < 1e-5, 0.0, value)
    return model.eval()


def flux_model(guidance=True, heads=2, double=2, single=2, context=CONTEXT, pooled=POOLED):
    return FluxTransformer2DModel(
        in_channels=64, num_layers=double, num_single_layers=single, attention_head_dim=128,
        num_attention_heads=heads, joint_attention_dim=context, pooled_projection_dim=pooled,
        guidance_embeds=guidance)  # fmt: skip


def save_flux(folder, tensors, config):
    """A diffusers folder with these tensors, f32."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": "FluxTransformer2DModel", **config}))
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def flux():
    return randomise(flux_model(), 1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    path = tmp_path_factory.mktemp("inputs") / "in.safetensors"
    save_inputs(path, CONTEXT, POOLED)
    return path


def save_inputs(path, context, pooled):
    random = torch.Generator().manual_seed(2)
    save_file({
        "img": torch.randn(2, ROWS * COLUMNS, 64, generator=random),
        "txt": torch.randn(2, TOKENS, context, generator=random),
        "pooled": torch.randn(2, pooled, generator=random),
        "t": torch.tensor([0.3, 0.9]), "guidance": torch.tensor([3.5, 1.0]),
        "grid": torch.tensor([float(ROWS), float(COLUMNS)])}, path)  # fmt: skip


def run(*command):
    return subprocess.run([program(command[0]), *map(str, command[1:])], capture_output=True, text=True, check=False)


def predict(path, inputs, tmp_path, *more):
    done = run("model_dump", path, inputs, tmp_path / "out.safetensors", *more)
    assert done.returncode == 0, done.stderr
    return load_file(tmp_path / "out.safetensors")["prediction"]


def refused(path, inputs, tmp_path, *words):
    """The program must refuse the file in two lines that hold these words, naming the file."""
    done = run("model_dump", path, inputs, tmp_path / "none.safetensors")
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert str(path) in done.stderr and done.stderr.count("\n") == 2, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert not (tmp_path / "none.safetensors").exists()


def write(path, tensors, metadata=None):
    save_file({k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}, path, metadata)
    return path


# ---- the transformer ------------------------------------------------------------------------------------------------

LAYOUTS = ["bf16", "f16", "f32", "prefixed", "plain e4m3", "plain e5m2", "scaled old", "scaled new",
           "scaled metadata", "scaled prefixed", "scaled rows"]  # fmt: skip


def in_layout(name, tensors):
    """(tensors, metadata) of a single file in this layout."""
    bfl = layouts.flux_to_bfl(tensors)
    kind, _, which = name.partition(" ")
    if kind in ("bf16", "f16", "f32"):
        dtype = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}[kind]
        return {k: v.to(dtype) for k, v in bfl.items()}, {}
    if kind == "prefixed":
        return layouts.prefixed({k: v.bfloat16() for k, v in bfl.items()}, layouts.MODEL_PREFIX), {}
    if kind == "plain":
        return layouts.to_fp8(bfl, layouts.E4M3 if which == "e4m3" else layouts.E5M2), {}
    prefix = layouts.MODEL_PREFIX if which == "prefixed" else ""
    convention = which if which in ("old", "new", "metadata") else "old"
    file, metadata = layouts.to_scaled_fp8(bfl, convention, prefix, by_row=which == "rows")
    return layouts.prefixed(file, prefix), metadata


def unfused(bfl, like):
    """Diffusers' tensors from numbers in BFL's layout: the inverse of flux_to_bfl, found by its own rows."""
    names = list(like)
    marks = {name: torch.arange(like[name].shape[0]) + 1_000_000 * i for i, name in enumerate(names)}
    out = {name: torch.empty_like(value, dtype=torch.float32) for name, value in like.items()}
    for name, places in layouts.flux_to_bfl(marks).items():
        which, row = places // 1_000_000, places % 1_000_000
        for i in which.unique().tolist():
            picked = which == i
            out[names[i]][row[picked]] = bfl[name][picked]
    return out


@pytest.mark.parametrize("layout", LAYOUTS)
def test_transformer(layout, flux, inputs, tmp_path):
    tensors = flux.state_dict()
    file, metadata = in_layout(layout, tensors)
    path = write(tmp_path / "model.safetensors", file, metadata or None)
    prefix = layouts.MODEL_PREFIX if any(k.startswith(layouts.MODEL_PREFIX) for k in file) else ""
    meant = unfused(layouts.numbers({k.removeprefix(prefix): v for k, v in file.items()}), tensors)
    if layout in ("bf16", "f16", "f32", "prefixed"):
        assert all(torch.equal(meant[k], v) for k, v in tensors.items())
    save_flux(tmp_path / "folder", meant, flux.config)
    expected = predict(tmp_path / "folder", inputs, tmp_path)
    assert expected.isfinite().all() and expected.std() > 1e-3
    assert torch.equal(predict(path, inputs, tmp_path), expected)


def test_folder_is_diffusers(flux, inputs, tmp_path):
    save_flux(tmp_path / "folder", flux.state_dict(), flux.config)
    tensors = load_file(inputs)
    ids = torch.zeros(ROWS * COLUMNS, 3)
    ids[:, 1] = torch.arange(ROWS * COLUMNS) // COLUMNS
    ids[:, 2] = torch.arange(ROWS * COLUMNS) % COLUMNS
    with torch.no_grad():
        expected = flux(
            hidden_states=tensors["img"], encoder_hidden_states=tensors["txt"], pooled_projections=tensors["pooled"],
            timestep=tensors["t"], guidance=tensors["guidance"], img_ids=ids, txt_ids=torch.zeros(TOKENS, 3)).sample  # fmt: skip
    ours = predict(tmp_path / "folder", inputs, tmp_path)
    # Sums of 1,024 products in f32 differ by some 1e-6 between two orders of adding.
    assert (ours - expected).norm() / expected.norm() < 1e-5


def test_shards_and_diffusers_names_in_one_file(flux, inputs, tmp_path):
    save_flux(tmp_path / "folder", flux.state_dict(), flux.config)
    expected = predict(tmp_path / "folder", inputs, tmp_path)
    flux.save_pretrained(tmp_path / "shards", max_shard_size="8MB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert torch.equal(predict(tmp_path / "shards", inputs, tmp_path), expected)
    one = tmp_path / "folder" / "diffusion_pytorch_model.safetensors"
    assert torch.equal(predict(one, inputs, tmp_path), expected)


@pytest.mark.parametrize("double, single", [(0, 1), (1, 0)])
def test_schnell_and_one_kind_of_block(double, single, inputs, tmp_path):
    model = randomise(flux_model(guidance=False, heads=1, double=double, single=max(single, 1)), 3)
    tensors = {k: v for k, v in model.state_dict().items() if single or not k.startswith("single_")}
    save_flux(tmp_path / "folder", tensors, {**model.config, "num_single_layers": single})
    expected = predict(tmp_path / "folder", inputs, tmp_path)
    bfl = layouts.flux_to_bfl(model.state_dict())
    bfl = {k: v for k, v in bfl.items() if single or not k.startswith("single_")}
    assert not any("guidance" in k for k in bfl)
    assert torch.equal(predict(write(tmp_path / "m.safetensors", bfl), inputs, tmp_path), expected)


def test_bf16_weights_are_the_files_own(flux, inputs, tmp_path):
    """The numbers fit bf16, so weights held as bf16 give the prediction of f32 ones."""
    path = write(tmp_path / "m.safetensors", in_layout("bf16", flux.state_dict())[0])
    full = predict(path, inputs, tmp_path)
    assert (predict(path, inputs, tmp_path, "bf16") - full).norm() / full.norm() < 1e-6


@pytest.mark.parametrize("layout", ["bf16", "scaled old", "scaled rows", "plain e5m2"])
def test_fp8_weights(layout, flux, inputs, tmp_path):
    """Files of e4m3 keep their codes and factors; others get a factor a row in the blocks, as Python would give them."""
    file, _ = in_layout(layout, flux.state_dict())
    path = write(tmp_path / "m.safetensors", file)
    meant = layouts.numbers(file)
    for name, value in meant.items():
        if value.dim() == 2 and "_blocks." in name and file[name].dtype != layouts.E4M3:
            scale = value.abs().amax(dim=1, keepdim=True) / 448
            meant[name] = (value / scale).to(layouts.E4M3).float() * scale
    expected = predict(write(tmp_path / "meant.safetensors", meant), inputs, tmp_path)
    ours = predict(path, inputs, tmp_path, "fp8")
    # The same numbers, multiplied panel by panel: only the order of sums may differ.
    assert (ours - expected).norm() / expected.norm() < 1e-6


@pytest.mark.skipif("FLUXLORA_SLOW_TESTS" not in os.environ, reason="slow: 2 GB of files; set FLUXLORA_SLOW_TESTS")
def test_full_width_by_diffusers_own_converter(tmp_path):
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    torch.manual_seed(0)
    with torch.device("meta"):
        model = flux_model(heads=24, double=1, single=1, context=4096, pooled=768)
    random = torch.Generator().manual_seed(4)
    tensors = {k: torch.empty(v.shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=random)
               for k, v in model.state_dict().items()}  # fmt: skip
    bfl = layouts.flux_to_bfl(tensors)
    path = write(tmp_path / "m.safetensors", bfl)
    save_flux(tmp_path / "folder", convert_flux_transformer_checkpoint_to_diffusers(dict(bfl)), model.config)
    inputs = tmp_path / "in.safetensors"
    save_inputs(inputs, 4096, 768)
    del tensors, bfl
    expected = predict(tmp_path / "folder", inputs, tmp_path, "bf16")
    assert expected.isfinite().all()
    assert torch.equal(predict(path, inputs, tmp_path, "bf16"), expected)


# ---- VAE and text encoders ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vae():
    return randomise(AutoencoderKL(
        block_out_channels=(32, 64, 96, 96), layers_per_block=2, norm_num_groups=32, latent_channels=16,
        scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False,
        down_block_types=("DownEncoderBlock2D",) * LEVELS, up_block_types=("UpDecoderBlock2D",) * LEVELS), 5, 0.05)  # fmt: skip


@pytest.fixture(scope="module")
def clip():
    return randomise(CLIPTextModel(CLIPTextConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=1, vocab_size=768,
        max_position_embeddings=77, eos_token_id=767, bos_token_id=766, pad_token_id=767)), 6, 0.1)  # fmt: skip


@pytest.fixture(scope="module")
def t5():
    return randomise(T5EncoderModel(T5Config(
        d_model=CONTEXT, d_kv=24, d_ff=96, num_layers=2, num_heads=3, vocab_size=1024,
        feed_forward_proj="gated-gelu")), 7, 0.1)  # fmt: skip


def clip_tensors(clip):
    """With the prefix that every published file has."""
    return {"text_model." + k.removeprefix("text_model."): v for k, v in clip.state_dict().items()}


def t5_tensors(t5):
    return {k: v for k, v in t5.state_dict().items() if k != "encoder.embed_tokens.weight"}


def dump_vae(path, tmp_path):
    random = torch.Generator().manual_seed(8)
    write(tmp_path / "in.safetensors", {
        "pixels": torch.rand(1, 24, 32, 3, generator=random) * 2 - 1,
        "latents": torch.randn(1, 3, 4, 16, generator=random), "noise": torch.randn(1, 3, 4, 16, generator=random)})  # fmt: skip
    done = run("vae_dump", path, tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert done.returncode == 0, done.stderr
    return load_file(tmp_path / "out.safetensors")


def dump_text(kind, path, tmp_path):
    ids = torch.randint(0, 760, (2, 77), generator=torch.Generator().manual_seed(9)).int()
    ids[:, 20] = 767
    write(tmp_path / "in.safetensors", {"ids": ids})
    done = run("text_dump", kind, path, tmp_path / "in.safetensors", tmp_path / "out.safetensors", "f32")
    assert done.returncode == 0, done.stderr
    return load_file(tmp_path / "out.safetensors")["output"]


@pytest.mark.parametrize("prefix", ["", "vae.", "first_stage_model."])
def test_vae(prefix, vae, tmp_path):
    vae.save_pretrained(tmp_path / "vae")
    expected = dump_vae(tmp_path / "vae", tmp_path)
    file = layouts.prefixed(layouts.vae_to_bfl(vae.state_dict(), LEVELS), prefix)
    assert "mid_block" not in " ".join(file)
    ours = dump_vae(write(tmp_path / "ae.safetensors", file), tmp_path)
    assert all(torch.equal(ours[k], v) for k, v in expected.items())


@pytest.mark.parametrize("layout", ["f16", "e4m3", "scaled"])
def test_text_encoders(layout, clip, t5, tmp_path):
    for kind, model, tensors in (("clip", clip, clip_tensors(clip)), ("t5", t5, t5_tensors(t5))):
        file = {"f16": lambda d: {k: v.half() for k, v in d.items()}, "e4m3": layouts.to_fp8,
                "scaled": lambda d: layouts.to_scaled_fp8(d, "old")[0]}[layout](tensors)  # fmt: skip
        folder = tmp_path / f"{kind}_folder"
        model.config.save_pretrained(folder)
        write(folder / "model.safetensors", layouts.numbers(file))
        expected = dump_text(kind, folder, tmp_path)
        extra = {"text_projection.weight": torch.eye(4)} if kind == "clip" else {}
        if kind == "t5" and layout == "f16":
            file["encoder.embed_tokens.weight"] = file.pop("shared.weight")
        ours = dump_text(kind, write(tmp_path / f"{kind}.safetensors", {**file, **extra}), tmp_path)
        assert torch.equal(ours, expected), kind


# ---- everything together --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(flux, vae, clip, t5, tmp_path_factory):
    """A pipeline folder, and the same model as four files and as one."""
    root = tmp_path_factory.mktemp("parts")
    folder = root / "folder"
    save_flux(folder / "transformer", flux.state_dict(), flux.config)
    vae.save_pretrained(folder / "vae")
    for name, model, tensors in (("text_encoder", clip, clip_tensors(clip)), ("text_encoder_2", t5, t5_tensors(t5))):
        model.config.save_pretrained(folder / name)
        write(folder / name / "model.safetensors", tensors)
    for name in ("tokenizer", "tokenizer_2", "scheduler"):
        shutil.copytree(TINY / name, folder / name)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({
        "base_image_seq_len": 256, "base_shift": 0.5, "max_image_seq_len": 4096, "max_shift": 1.15,
        "num_train_timesteps": 1000, "shift": 3.0, "use_dynamic_shifting": True}))  # fmt: skip
    bfl = {k: v.bfloat16() for k, v in layouts.flux_to_bfl(flux.state_dict()).items()}
    ae = layouts.vae_to_bfl(vae.state_dict(), LEVELS)
    write(root / "flux.safetensors", bfl)
    write(root / "ae.safetensors", ae)
    write(root / "clip_l.safetensors", {k: v.half() for k, v in clip_tensors(clip).items()})
    write(root / "t5xxl.safetensors", {k: v.half() for k, v in t5_tensors(t5).items()})
    write(root / "all.safetensors", {
        **layouts.prefixed(bfl, layouts.MODEL_PREFIX), **layouts.prefixed(ae, "vae."),
        **layouts.prefixed(clip_tensors(clip), "text_encoders.clip_l.transformer."),
        "text_encoders.clip_l.logit_scale": torch.tensor(4.6),
        **layouts.prefixed(t5_tensors(t5), "text_encoders.t5xxl.transformer.")})  # fmt: skip
    return root


def tokenizers(root):
    return ["--clip-tokenizer", root / "folder" / "tokenizer", "--t5-tokenizer", root / "folder" / "tokenizer_2"]


def pieces(root):
    return ["--vae", root / "ae.safetensors", "--clip", root / "clip_l.safetensors", "--t5", root / "t5xxl.safetensors"]


def test_sample_from_every_arrangement(parts, fluxlora, tmp_path):
    def picture(*model):
        fluxlora("sample", "--model", *model, "--prompt", "a red circle", "--output", tmp_path / "p.png", "--steps", 2,
                 "--width", 64, "--height", 48, "--text-tokens", 16)  # fmt: skip
        return np.asarray(Image.open(tmp_path / "p.png"))

    expected = picture(parts / "folder")
    assert expected.std() > 1
    assert np.array_equal(picture(parts / "all.safetensors", *tokenizers(parts)), expected)
    assert np.array_equal(picture(parts / "flux.safetensors", *pieces(parts), *tokenizers(parts)), expected)


def test_inspect_and_doctor(parts, fluxlora):
    kinds = {"flux": "flux-transformer", "ae": "vae", "clip_l": "clip-text", "t5xxl": "t5", "all": "checkpoint"}
    for name, kind in kinds.items():
        found = json.loads(fluxlora("inspect", "--json", parts / f"{name}.safetensors"))
        assert found["kind"] == kind
        assert (found["model"] is not None) == (name in ("flux", "all"))
    assert "2 + 2 blocks of width 256, with guidance" in fluxlora("inspect", parts / "flux.safetensors")
    found = json.loads(fluxlora("doctor", "--json", "--model", parts / "all.safetensors", *tokenizers(parts)))
    check = [c for c in found["checks"] if c["name"] == "model"][0]
    assert check["verdict"] == "ok" and "2 + 2 blocks of width 256" in check["text"]


def test_what_a_single_file_lacks_is_named(parts, tmp_path):
    def error(*more):
        done = run("fluxlora", "sample", "--model", parts / "flux.safetensors", *more, "--prompt", "x", "--output",
                   tmp_path / "p.png")  # fmt: skip
        assert done.returncode == 2
        return done.stderr

    assert "holds a FLUX.1 transformer and no VAE" in error() and "model.vae" in error()
    vae, clip = ["--vae", parts / "ae.safetensors"], ["--clip", parts / "clip_l.safetensors"]
    assert "model.clip" in error(*vae)
    assert "model.t5" in error(*vae, *clip)
    assert "model.clip_tokenizer" in error(*pieces(parts))
    wrong = error("--vae", parts / "clip_l.safetensors")
    assert "holds a CLIP text encoder and no VAE" in wrong


# ---- files that must be refused -------------------------------------------------------------------------------------


def test_hostile_files(flux, inputs, tmp_path):
    good = {k: v.bfloat16() for k, v in layouts.flux_to_bfl(flux.state_dict()).items()}
    path = tmp_path / "m.safetensors"

    def without(name):
        return {k: v for k, v in good.items() if k != name}

    def check(tensors, *words, metadata=None):
        refused(write(path, tensors, metadata), inputs, tmp_path, *words)

    check(without("double_blocks.1.txt_mlp.2.bias"), 'has no tensor "double_blocks.1.txt_mlp.2.bias"')
    check(without("img_in.weight"), 'has no tensor "img_in.weight"')
    check({**good, "single_blocks.1.linear1.weight": torch.zeros(5, 256)}, "is (5, 256) where (1792, 256) is expected")
    check({**good, "img_in.weight": torch.zeros(64)}, '"img_in.weight" is (64)')
    check({**good, "single_blocks.0.norm.query_norm.scale": torch.zeros(128, dtype=torch.int64)}, "I64", "not a usable")
    check({**good, "img_in.weight": torch.zeros(256, 384)}, "FLUX.1 Fill")
    check({**good, **layouts.prefixed(good, "model.diffusion_model.")}, "holds more than one FLUX.1 transformer")
    check({"transformer." + "transformer_blocks.0.attn.to_q.lora_A.weight": torch.zeros(4, 256)}, "holds a LoRA and no")
    check({"something": torch.zeros(1)}, "holds no FLUX.1 transformer")
    check({**good, "distilled_guidance_layer.in_proj.weight": torch.zeros(1)}, "Chroma")
    check({**good, "double_blocks.0.img_mlp.0.weight": torch.zeros(1024, 128, dtype=torch.uint8)}, "quantised as U8")
    check({**good, "double_blocks.0.img_mlp.0.weight_scale_2": torch.zeros(1)}, "quantised as nvfp4")
    check({**good, "double_blocks.0.img_mlp.0.weight.absmax": torch.zeros(1)}, "quantised as bitsandbytes")
    quant = torch.tensor(list(b'{"format": "mxfp8"}'), dtype=torch.uint8)
    check({**good, "double_blocks.0.img_mlp.0.comfy_quant": quant}, '"double_blocks.0.img_mlp.0" is quantised as mxfp8')
    check({**good, "double_blocks.0.img_mlp.0.comfy_quant": quant[:9]}, "an unnamed format")
    layers = json.dumps({"layers": {"double_blocks.0.img_mlp.0": {"format": "int8_tensorwise"}}})
    check(good, "quantised as int8_tensorwise", metadata={"_quantization_metadata": layers})
    check(good, "damaged", metadata={"_quantization_metadata": "{"})
    scale = "double_blocks.0.img_mlp.0.scale_weight"
    check({**good, scale: torch.tensor(float("inf"))}, scale, "is not finite")
    check({**good, scale: torch.ones(1024, 8)}, "a scale for each block")


@pytest.mark.parametrize("content, word", [
    (b"", "shorter than 8 bytes"), (b"GGUF\x03\0\0\0rest", "GGUF"), (b"PK\x03\x04" + bytes(40), "PyTorch checkpoint"),
    (b"\x02\0\0\0\0\0\0\0{}", "holds no FLUX.1 transformer")], ids=["empty", "gguf", "zip", "no tensors"])  # fmt: skip
def test_files_of_other_formats(content, word, inputs, tmp_path):
    (tmp_path / "m.safetensors").write_bytes(content)
    refused(tmp_path / "m.safetensors", inputs, tmp_path, word)
