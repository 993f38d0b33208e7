# SPDX-License-Identifier: Apache-2.0
"""The layouts of model files that people have, written from a diffusers folder by the tables of the formats.

Each function takes and gives a dictionary of tensors. The tables are those of flux-facts 2.2, 2.3 and 4.3, written
independently of the program's own.
"""

import json
import re

import torch

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
MODEL_PREFIX = "model.diffusion_model."

TOP = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "proj_out": "final_layer.linear",
}
DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}


def flux_to_bfl(d):
    """Black Forest Labs' names and fused matrices from diffusers' transformer."""
    out = {}

    def joined(target, modules):
        for end in ("weight", "bias"):
            out[f"{target}.{end}"] = torch.cat([d[f"{m}.{end}"] for m in modules])

    for theirs, bfl in TOP.items():
        if f"{theirs}.weight" in d:
            joined(bfl, [theirs])
    for end in ("weight", "bias"):
        scale, shift = d[f"norm_out.linear.{end}"].chunk(2)
        out[f"final_layer.adaLN_modulation.1.{end}"] = torch.cat([shift, scale])
    for i in range(1 + max([int(m[1]) for m in (re.match(r"transformer_blocks\.(\d+)\.", k) for k in d) if m] + [-1])):
        a, b = f"transformer_blocks.{i}.", f"double_blocks.{i}."
        for theirs, bfl in DOUBLE.items():
            joined(b + bfl, [a + theirs])
        joined(b + "img_attn.qkv", [a + f"attn.to_{x}" for x in "qkv"])
        joined(b + "txt_attn.qkv", [a + f"attn.add_{x}_proj" for x in "qkv"])
        for side, added in (("img", ""), ("txt", "added_")):
            out[b + f"{side}_attn.norm.query_norm.scale"] = d[a + f"attn.norm_{added}q.weight"]
            out[b + f"{side}_attn.norm.key_norm.scale"] = d[a + f"attn.norm_{added}k.weight"]
    for i in range(1 + max([int(m[1]) for m in (re.match(r"single_transformer_blocks\.(\d+)\.", k) for k in d) if m])):
        a, b = f"single_transformer_blocks.{i}.", f"single_blocks.{i}."
        joined(b + "linear1", [a + f"attn.to_{x}" for x in "qkv"] + [a + "proj_mlp"])
        joined(b + "linear2", [a + "proj_out"])
        joined(b + "modulation.lin", [a + "norm.linear"])
        out[b + "norm.query_norm.scale"] = d[a + "attn.norm_q.weight"]
        out[b + "norm.key_norm.scale"] = d[a + "attn.norm_k.weight"]
    return out


def vae_to_bfl(d, levels):
    """The names of ae.safetensors; the attention's matrices become 1x1 convolutions."""
    out = {}
    for name, value in d.items():
        n = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        n = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", n)
        n = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", n)
        n = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", n)
        n = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", n)
        n = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", n)
        n = n.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
        n = re.sub(r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1", n)
        n = n.replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out")
        if ".attn_1." in n and n.endswith("weight") and "norm" not in n:
            value = value[:, :, None, None]
        out[n] = value
    return out


def is_quantised(name, value):
    """The matrices that the makers of fp8 files quantise: linear layers of the blocks."""
    return name.endswith(".weight") and value.dim() == 2 and ("block" in name or "layers." in name)


def to_fp8(d, dtype=E4M3):
    """Every tensor cast, as in flux1-dev-fp8.safetensors."""
    most = torch.finfo(dtype).max
    return {k: v.float().clamp(-most, most).to(dtype) for k, v in d.items()}


def to_scaled_fp8(d, convention, prefix="", by_row=False):
    """ComfyUI's scaled fp8: (tensors, metadata). `convention`: old, new or metadata."""
    out, layers = {}, {}
    for name, value in d.items():
        if not is_quantised(name, value):
            out[name] = value.bfloat16()
            continue
        layer = name.removesuffix(".weight")
        largest = value.float().abs().amax(dim=1, keepdim=True) if by_row else value.float().abs().max()
        scale = largest / 448
        out[name] = (value.float() / scale).to(E4M3)
        if convention == "old":
            out[layer + ".scale_weight"] = scale
            out[layer + ".scale_input"] = torch.tensor(1.0)
            continue
        out[layer + ".weight_scale"] = scale
        out[layer + ".input_scale"] = torch.tensor(0.5)
        entry = {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}
        layers[prefix + layer] = entry
        if convention == "new":
            out[layer + ".comfy_quant"] = torch.tensor(list(json.dumps(entry).encode()), dtype=torch.uint8)
    if convention == "old":
        out["scaled_fp8"] = torch.zeros(2, dtype=E4M3)
    metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    return out, metadata if convention == "metadata" else {}


def numbers(d):
    """What the values of a file mean, f32, scales multiplied in; the tensors about scales are gone."""
    out = {}
    about = (".scale_weight", ".weight_scale", ".scale_input", ".input_scale", ".comfy_quant", "scaled_fp8")
    for name, value in d.items():
        if name.endswith(about):
            continue
        layer = name.removesuffix(".weight")
        value = value.float()
        for end in (".scale_weight", ".weight_scale"):
            if name.endswith(".weight") and layer + end in d:
                value = value * d[layer + end]
        out[name] = value
    return out


def prefixed(d, prefix):
    return {prefix + k: v for k, v in d.items()}
