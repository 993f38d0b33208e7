# SPDX-License-Identifier: Apache-2.0
"""Every kind of adapter: diffusers with PEFT loads our file and paints what `fluxlora sample` paints."""

import numpy as np
import pytest
import reference
import torch
from PIL import Image
from programs import short_run
from safetensors import safe_open
from safetensors.torch import save_file

STEPS, GUIDANCE, TEXT_TOKENS, SIDE = 8, 3.5, 64, 128
CONFIG = short_run(steps=15, text_tokens=TEXT_TOKENS)
KINDS = {
    "dora": {"lora.type": "dora"},
    "dora_fused": {"lora.type": "dora", "lora.targets": "kohya"},
    "rslora": {"lora.rslora": "true", "lora.ranks": '["attn.* = 2"]'},
    "pissa": {"lora.init": "pissa"},
    "lora_ga": {"lora.init": "lora_ga"},
    "clip": {"lora.text_encoder": "true"},
    "dropout": {"lora.dropout": "0.3", "lora.dropout_of": "input"},
}


def train(fluxlora, folder, settings):
    (folder / "short.toml").write_text(CONFIG)
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    fluxlora("train", folder / "short.toml", "--set", f"output.path={folder}/run", "--device", "cpu", *sets)
    return folder / "run" / "short.safetensors"


def ours(fluxlora, latents, folder, *more):
    fluxlora("sample", "--model", "tiny", "--prompt", "a zorbot on a plain yellow background", "--latents", latents,
             "--steps", STEPS, "--guidance", GUIDANCE, "--height", SIDE, "--width", SIDE, "--text-tokens", TEXT_TOKENS,
             "--output", folder / "ours.png", "--device", "cpu", *more)  # fmt: skip
    return np.asarray(Image.open(folder / "ours.png"))


def theirs(pipe, latents):
    return np.asarray(
        pipe("a zorbot on a plain yellow background", height=SIDE, width=SIDE, latents=reference.pack(latents),
             num_inference_steps=STEPS, guidance_scale=GUIDANCE, max_sequence_length=TEXT_TOKENS).images[0]
    )  # fmt: skip


# Both compute in f32 and round to bytes: what differs is at most one byte where a value lies between two.
@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_paints_the_same_picture(fluxlora, pipe, psnr, tmp_path, kind):
    lora = train(fluxlora, tmp_path, KINDS[kind])
    latents = torch.randn(1, 16, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(1))
    save_file({"latents": latents}, tmp_path / "latents.safetensors")
    base = theirs(pipe, latents)
    pipe.load_lora_weights(lora)
    with_lora = theirs(pipe, latents)
    assert psnr(base, with_lora) < 38, "an adapter that changes nothing proves nothing"
    assert psnr(ours(fluxlora, tmp_path / "latents.safetensors", tmp_path, "--lora", lora), with_lora) >= 40
    with safe_open(lora, "pt") as file:
        assert any("magnitude" in key for key in file.keys()) == kind.startswith("dora")
        assert any(key.startswith("text_encoder.") for key in file.keys()) == (kind == "clip")
    assert any("lora_A" in name for name, _ in pipe.text_encoder.named_parameters()) == (kind == "clip")


def test_lycoris_paints_the_same_picture(fluxlora, pipe, psnr, tmp_path):
    from lycoris import create_lycoris_from_weights

    lora = train(fluxlora, tmp_path, {"lora.type": "lokr", "lora.rank": "8", "train.learning_rate": "1e-2"})
    latents = torch.randn(1, 16, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(1))
    save_file({"latents": latents}, tmp_path / "latents.safetensors")
    base = theirs(pipe, latents)
    network, _ = create_lycoris_from_weights(1.0, str(lora), pipe.transformer)
    network.merge_to()
    with safe_open(lora, "pt") as file:
        assert len(network.loras) == len({key.split(".")[0] for key in file.keys()})
    with_lora = theirs(pipe, latents)
    assert psnr(base, with_lora) < 38, "an adapter that changes nothing proves nothing"
    assert psnr(ours(fluxlora, tmp_path / "latents.safetensors", tmp_path, "--lora", lora), with_lora) >= 40
