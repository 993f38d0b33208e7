# SPDX-License-Identifier: Apache-2.0
"""The reference: diffusers' FLUX.1 pipeline and PEFT adapters in f32 on the CPU, with its insides laid open."""

import contextlib
import math
import pathlib
import re

import diffusers
import numpy as np
import torch
import transformers
from diffusers import FluxPipeline
from diffusers.utils.peft_utils import recurse_remove_peft_layers
from peft import LoraConfig, inject_adapter_in_model

diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = ROOT / "assets" / "tiny-flux"

# What lora.targets = "default" trains: the linear layers of attention and feed-forward.
DEFAULT_TARGETS = re.compile(
    r"transformer_blocks\.\d+\.(attn\.(to_q|to_k|to_v|to_out\.0|add_[qkv]_proj|to_add_out)"
    r"|ff\.net\.(0\.proj|2)|ff_context\.net\.(0\.proj|2))"
    r"|single_transformer_blocks\.\d+\.(attn\.to_[qkv]|proj_mlp|proj_out)"
)
ALL_TARGETS = re.compile(r".*")
CLIP_TARGETS = re.compile(r".*\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])")


def load_pipeline(folder=TINY, dtype=torch.float32):
    """FluxPipeline without gradients and progress bars."""
    pipe = FluxPipeline.from_pretrained(folder, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.transformer, pipe.vae, pipe.text_encoder, pipe.text_encoder_2):
        part.requires_grad_(False).eval()
    return pipe


def generator(seed):
    return torch.Generator().manual_seed(seed)


def linears(model, pattern):
    """Names of the Linear layers that the pattern matches whole, in the model's order."""
    return [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and pattern.fullmatch(n)]


def random_factors(model, names, rank, seed):
    """{name: (A, B)}: A (rank, in) ~ N(0, 1/in), B (out, rank) ~ N(0, 0.02²), both non-zero."""
    rng = generator(seed)
    factors = {}
    for name in names:
        layer = model.get_submodule(name)
        a = torch.randn(rank, layer.in_features, generator=rng) / math.sqrt(layer.in_features)
        b = torch.randn(layer.out_features, rank, generator=rng) * 0.02
        factors[name] = (a, b)
    return factors


@contextlib.contextmanager
def adapter(model, factors, alpha):
    """A PEFT LoRA on `model` for the time of the block; yields {name: (A, B)} of its parameters."""
    rank = next(iter(factors.values()))[0].shape[0]
    pattern = "(" + "|".join(re.escape(n) for n in factors) + ")"
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=pattern)
    inject_adapter_in_model(config, model, adapter_name="golden")
    parameters = {}
    for name, (a, b) in factors.items():
        layer = model.get_submodule(name)
        parameters[name] = (layer.lora_A["golden"].weight, layer.lora_B["golden"].weight)
        for parameter, value in zip(parameters[name], (a, b)):
            parameter.data.copy_(value)
            parameter.requires_grad_(True)
    count = sum(1 for n, _ in model.named_parameters() if ".lora_" in n)
    assert count == 2 * len(factors), "PEFT adapted other layers than those asked for"
    try:
        yield parameters
    finally:
        recurse_remove_peft_layers(model)
        del model.peft_config


def file_names(prefix, factors, kind=""):
    """Tensors of a LoRA file by the names that diffusers uses, `kind` put before: "grad." or nothing."""
    tensors = {}
    for name, (a, b) in factors.items():
        tensors[f"{kind}{prefix}.{name}.lora_A.weight"] = a
        tensors[f"{kind}{prefix}.{name}.lora_B.weight"] = b
    return tensors


def sample_pictures():
    """Two pictures of 96 x 128 (height x width), u8 (2, 96, 128, 3): not square, so that the axes cannot be swapped."""
    y, x = np.mgrid[0:96, 0:128].astype(np.float64)
    pictures = np.zeros((2, 96, 128, 3))
    pictures[0] = np.stack([x * 2, y * 2.5, 255 - x - y], -1)
    pictures[0][(x - 40) ** 2 + (y - 36) ** 2 < 24**2] = (220, 40, 30)
    pictures[0][60:90, 70:120] = (20, 90, 200)
    pictures[1] = np.stack([200 + 40 * np.sin(x / 9), 190 + 50 * np.cos(y / 7), 160 + 0 * x], -1)
    pictures[1][np.abs(x - 80) + np.abs(y - 50) < 34] = (30, 150, 60)
    pictures[1] += np.random.default_rng(5).normal(0, 6, pictures[1].shape)
    return np.clip(np.rint(pictures), 0, 255).astype(np.uint8)


def token_ids(pipe, prompts, text_tokens):
    """CLIP ids (B, 77) and T5 ids (B, text_tokens), as the pipeline makes them."""
    kind = dict(padding="max_length", truncation=True, return_tensors="pt")
    clip = pipe.tokenizer(prompts, max_length=77, **kind).input_ids
    return clip, pipe.tokenizer_2(prompts, max_length=text_tokens, **kind).input_ids


def encode_pictures(pipe, pixels):
    """u8 (B, H, W, 3) to scaled latents (B, C, h, w): the mean of the posterior."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    config = pipe.vae.config
    return (pipe.vae.encode(x).latent_dist.mean - config.shift_factor) * config.scaling_factor


def pack(latents):
    return FluxPipeline._pack_latents(latents, *latents.shape)


def unpack(pipe, packed, height, width):
    return pipe._unpack_latents(packed, height, width, pipe.vae_scale_factor)


def decode(pipe, latents):
    """Scaled latents to (B, 3, H, W) around [-1, 1], not clamped."""
    config = pipe.vae.config
    return pipe.vae.decode(latents / config.scaling_factor + config.shift_factor).sample


def predict(pipe, batch, x_t, t):
    """The transformer's prediction (B, N, C). batch: txt (B, M, ·), pooled (B, ·), guidance (B), grid (h/2, w/2)."""
    ids = pipe._prepare_latent_image_ids(1, *batch["grid"], "cpu", torch.float32)
    return pipe.transformer(
        hidden_states=x_t, encoder_hidden_states=batch["txt"], pooled_projections=batch["pooled"], timestep=t,
        guidance=batch["guidance"] if pipe.transformer.config.guidance_embeds else None, img_ids=ids,
        txt_ids=torch.zeros(batch["txt"].shape[1], 3), return_dict=False)[0]  # fmt: skip


def flow_loss(pipe, batch, noise, t):
    """Prediction (B, N, C) and loss (B): mean over a picture of (pred - (noise - x0))²."""
    w = t.view(-1, 1, 1)
    prediction = predict(pipe, batch, (1 - w) * batch["x0"] + w * noise, t)
    return prediction, (prediction - (noise - batch["x0"])).square().mean((1, 2))


@contextlib.contextmanager
def recorded(transformer):
    """Yields a dict that a forward inside fills with what each part gives, named as the C++ model names it."""
    found, hooks = {}, []

    def record(module, write):
        hooks.append(module.register_forward_hook(lambda _, __, output: write(output)))

    def rotary(output):
        cos, sin = output  # (S, K), each value twice
        found["pe"] = torch.stack([cos[:, ::2], sin[:, ::2]], -1)

    def block(name, joint):
        def write(output):
            txt, img = output
            if joint:
                found[name] = torch.cat([txt, img], 1)
            else:
                found[name + ".txt"], found[name + ".img"] = txt, img

        return write

    for name, module in (("img_in", transformer.x_embedder), ("txt_in", transformer.context_embedder),
                         ("vec", transformer.time_text_embed)):  # fmt: skip
        record(module, lambda output, name=name: found.__setitem__(name, output))
    record(transformer.pos_embed, rotary)
    for i, module in enumerate(transformer.transformer_blocks):
        record(module, block(f"double_blocks.{i}", joint=False))
    for i, module in enumerate(transformer.single_transformer_blocks):
        record(module, block(f"single_blocks.{i}", joint=True))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
