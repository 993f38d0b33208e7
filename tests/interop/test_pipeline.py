# SPDX-License-Identifier: Apache-2.0
"""The whole way: diffusers reads our model and our LoRA, and paints what `fluxlora sample` paints."""

import json

import numpy as np
import pytest
import reference
import torch
from PIL import Image
from programs import short_run
from safetensors import safe_open
from safetensors.torch import save_file

STEPS, GUIDANCE, TEXT_TOKENS = 16, 3.5, 64
CONFIG = short_run(steps=30, text_tokens=TEXT_TOKENS)


@pytest.fixture(scope="module")
def lora(fluxlora, tmp_path_factory):
    """A LoRA that our trainer made, with alpha twice the rank, so that a forgotten scale shows."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "short.toml").write_text(CONFIG)
    fluxlora("train", folder / "short.toml", "--set", f"output.path={folder}/run", "--device", "cpu")
    return folder / "run" / "short.safetensors"


@pytest.fixture
def start(tmp_path):
    """start(height, width): pure noise (1, C, h, w) and a file that holds it."""

    def make(height, width):
        latents = torch.randn(1, 16, height // 8, width // 8, generator=torch.Generator().manual_seed(height))
        save_file({"latents": latents}, tmp_path / "latents.safetensors")
        return latents, tmp_path / "latents.safetensors"

    return make


def ours(fluxlora, prompt, latents, folder, *more):
    height, width = 8 * latents[0].shape[2], 8 * latents[0].shape[3]
    fluxlora("sample", "--model", "tiny", "--prompt", prompt, "--latents", latents[1], "--steps", STEPS,
             "--guidance", GUIDANCE, "--height", height, "--width", width, "--text-tokens", TEXT_TOKENS,
             "--output", folder / "ours.png", "--device", "cpu", *more)  # fmt: skip
    return np.asarray(Image.open(folder / "ours.png"))


def theirs(pipe, prompt, latents):
    height, width = 8 * latents[0].shape[2], 8 * latents[0].shape[3]
    image = pipe(prompt, height=height, width=width, latents=reference.pack(latents[0]), num_inference_steps=STEPS,
                 guidance_scale=GUIDANCE, max_sequence_length=TEXT_TOKENS).images[0]  # fmt: skip
    return np.asarray(image)


# Both compute in f32 and round to bytes: what differs is at most one byte where a value lies between two.
@pytest.mark.parametrize(("height", "width"), [(128, 128), (96, 160)])
def test_same_picture(fluxlora, pipe, psnr, start, tmp_path, height, width):
    prompt, latents = "a large green star on a plain blue background", start(height, width)
    assert psnr(ours(fluxlora, prompt, latents, tmp_path), theirs(pipe, prompt, latents)) >= 40


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_same_picture_with_our_lora(fluxlora, pipe, psnr, start, tmp_path, lora, weight):
    prompt, latents = "a zorbot on a plain yellow background", start(128, 128)
    base = theirs(pipe, prompt, latents)
    pipe.load_lora_weights(lora)
    pipe.set_adapters(pipe.get_active_adapters(), adapter_weights=[weight])
    with_lora = theirs(pipe, prompt, latents)
    assert psnr(base, with_lora) < 35, "a LoRA that changes nothing proves nothing"
    assert psnr(ours(fluxlora, prompt, latents, tmp_path, "--lora", f"{lora}:{weight}"), with_lora) >= 40


def test_every_trained_layer_is_loaded(pipe, lora):
    wanted = set(reference.linears(pipe.transformer, reference.DEFAULT_TARGETS))
    pipe.load_lora_weights(lora)
    loaded = {n.split(".lora_A")[0] for n, _ in pipe.transformer.named_parameters() if ".lora_A" in n}
    assert loaded == wanted
    with safe_open(lora, "pt") as file:
        assert len(file.keys()) == 2 * len(loaded)


def test_our_sampler_takes_peft_files(fluxlora, pipe, psnr, start, tmp_path):
    """A LoRA saved by PEFT through diffusers, alpha in its metadata, in our sampler."""
    names = reference.linears(pipe.transformer, reference.DEFAULT_TARGETS)
    factors = reference.random_factors(pipe.transformer, names, rank=4, seed=9)
    prompt, latents = "a blue ring on a plain grey background", start(128, 128)
    base = theirs(pipe, prompt, latents)
    with reference.adapter(pipe.transformer, factors, alpha=16.0):
        with_lora = theirs(pipe, prompt, latents)
    scale = {"transformer.r": 4, "transformer.lora_alpha": 16.0, "transformer.target_modules": names}
    save_file(reference.file_names("transformer", factors), tmp_path / "peft.safetensors",
              metadata={"format": "pt", "lora_adapter_metadata": json.dumps(scale)})  # fmt: skip
    assert psnr(base, with_lora) < 38
    assert psnr(ours(fluxlora, prompt, latents, tmp_path, "--lora", tmp_path / "peft.safetensors"), with_lora) >= 40
