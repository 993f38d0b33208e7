# SPDX-License-Identifier: Apache-2.0
"""Writes a FLUX.1 pipeline with a random transformer of any width, in diffusers' folder layout.

    python bench/make_random_model.py OUTPUT [--heads 8] [--head-dim 128] [--double 2] [--single 4]

Everything but the transformer is copied from assets/tiny-flux. For measurements: its pictures mean nothing.
"""

import argparse
import pathlib
import shutil

import torch
from diffusers import FluxTransformer2DModel

TINY = pathlib.Path(__file__).resolve().parents[1] / "assets" / "tiny-flux"


def rope_axes(head_dim):
    """Three even axes that sum to the head's width, in FLUX.1's proportion 16 : 56 : 56."""
    side = head_dim * 7 // 16 // 2 * 2
    return (head_dim - 2 * side, side, side)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--double", type=int, default=2)
    parser.add_argument("--single", type=int, default=4)
    options = parser.parse_args()

    shutil.copytree(TINY, options.output, ignore=shutil.ignore_patterns("transformer"))
    tiny = FluxTransformer2DModel.load_config(TINY / "transformer")
    torch.manual_seed(0)
    model = FluxTransformer2DModel.from_config({
        **tiny, "num_attention_heads": options.heads, "attention_head_dim": options.head_dim,
        "num_layers": options.double, "num_single_layers": options.single,
        "axes_dims_rope": rope_axes(options.head_dim)})  # fmt: skip
    model.to(torch.bfloat16).save_pretrained(options.output / "transformer")
    print(f"{options.output}: {model.num_parameters()} parameters")


if __name__ == "__main__":
    main()
