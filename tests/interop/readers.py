# SPDX-License-Identifier: Apache-2.0
"""What programs that are in no package registry read of a LoRA file, and what they make of it: facts from their source,
written anew.

  ComfyUI (17358c8f)      comfy/lora.py: model_lora_keys_unet says which names a FLUX.1 model's layers answer to,
                          load_lora that a key which no name covers is passed over with a warning; comfy/utils.py:
                          flux_to_diffusers gives diffusers' names their rows of the fused layers, and exchanges the
                          halves of norm_out.linear; comfy/weight_adapter/lora.py: the spellings of a pair, and
                          W + alpha / rank up down, alpha = rank where there is none.
  sd-scripts (0087a46e)   networks/lora_flux.py: create_network_from_weights takes the rank of a module from its
                          lora_down and its alpha from .alpha; modules are "lora_unet_" and the BFL model's names
                          with "_"; merge_to: W + alpha / rank up down.
"""

import lora_keys
import torch

OUTSIDE = {  # BFL's layers outside the blocks, which have one diffusers' layer each
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
SWAPPED = "final_layer.adaLN_modulation.1"
COMFYUI_PAIRS = [(".lora_up.weight", ".lora_down.weight"), (".lora_B.weight", ".lora_A.weight"),
                 (".lora.up.weight", ".lora.down.weight"), ("_lora.up.weight", "_lora.down.weight"),
                 (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
                 (".lora_B.default.weight", ".lora_A.default.weight"), (".lora_B", ".lora_A")]  # fmt: skip


def comfyui_names(depth, depth_single, width):
    """{name in a file: (BFL's layer, first row, rows; None: all)}."""
    names = {}

    def add_whole(bfl):
        names["lora_unet_" + bfl.replace(".", "_")] = names["diffusion_model." + bfl] = (bfl, 0, None)

    def add_part(module, place):
        for name in ("transformer." + module, "lycoris_" + module.replace(".", "_"),
                     "lora_transformer_" + module.replace(".", "_"), module):  # fmt: skip
            names[name] = place

    for bfl, parts, _ in lora_keys.layers(depth, depth_single):
        add_whole(bfl)
        row = 0
        for module, rows in parts:
            add_part(module, (bfl, row * width, rows * width))
            row += rows
    for bfl, module in OUTSIDE.items():
        add_whole(bfl)
        add_part(module, (bfl, 0, None))
    return names


def product(tensors, up, down, alpha):
    """alpha / rank up down in f64; alpha is a key that need not be there."""
    a, b = tensors[down].double(), tensors[up].double()
    scale = tensors[alpha].double().item() / a.shape[0] if alpha in tensors else 1.0
    return scale * b @ a


def comfyui_reads(tensors, depth, depth_single, width, sizes):
    """What ComfyUI adds to each of BFL's layers, {layer: f64 (rows, columns)}, and the keys that it passes over.
    `sizes` has the shapes of the layers."""
    changes, read = {}, set()
    for name, (bfl, row, rows) in comfyui_names(depth, depth_single, width).items():
        for up, down in COMFYUI_PAIRS:
            if name + up not in tensors or name + down not in tensors:
                continue
            change = product(tensors, name + up, name + down, name + ".alpha")
            read |= {name + up, name + down, name + ".alpha"} & tensors.keys()
            if bfl == SWAPPED and not name.startswith(("lora_unet_", "diffusion_model.")):
                change = torch.cat(change.chunk(2)[::-1])
            total = changes.setdefault(bfl, torch.zeros(sizes[bfl], dtype=torch.float64))
            total[row : row + (rows or total.shape[0])] += change
    return changes, tensors.keys() - read


def kohya_reads(tensors, depth, depth_single):
    """The same of sd-scripts, whose network has the blocks' layers alone."""
    changes, read = {}, set()
    for bfl, _, _ in lora_keys.layers(depth, depth_single):
        name = "lora_unet_" + bfl.replace(".", "_")
        if name + ".lora_down.weight" not in tensors:
            continue
        changes[bfl] = product(tensors, name + ".lora_up.weight", name + ".lora_down.weight", name + ".alpha")
        read |= {name + ending for ending in (".lora_up.weight", ".lora_down.weight", ".alpha")}
    return changes, tensors.keys() - read
