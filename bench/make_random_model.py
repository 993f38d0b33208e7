# SPDX-License-Identifier: Apache-2.0
"""Writes a FLUX.1 pipeline with random weights, in diffusers' folder layout.

    python bench/make_random_model.py OUTPUT --size medium            8 heads, 2 + 4 blocks, the tiny encoders and VAE
    python bench/make_random_model.py OUTPUT --size flux              FLUX.1-dev's own sizes throughout, 33 GB
    python bench/make_random_model.py OUTPUT --size flux --double 1 --single 1 --only transformer

For measurements: its pictures mean nothing. The recipe keeps numbers sane through 57 blocks: a matrix is
N(0, 1/in), so that it keeps the size of what it reads; those of the modulations are 0.15 of that, so that gates are
around 0.1 and each block adds a little to the stream: with 0.5, rounding errors grow through 57 random blocks until
diffusers' own gradients in bf16 are a third off (docs/kernels.md). Biases are N(0, 0.02²), norm weights
1 + N(0, 0.1²). The numbers are drawn in order from one seed, on the GPU where there is one, which takes seconds; a CPU
draws others, for minutes.
"""

import argparse
import json
import pathlib
import shutil

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

TINY = pathlib.Path(__file__).resolve().parents[1] / "assets" / "tiny-flux"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = {
    "medium": {"num_attention_heads": 8, "num_layers": 2, "num_single_layers": 4},
    "flux": {"num_attention_heads": 24, "num_layers": 19, "num_single_layers": 38, "joint_attention_dim": 4096,
             "pooled_projection_dim": 768},
}  # fmt: skip
WIDTHS = {"attention_head_dim": 128, "axes_dims_rope": (16, 56, 56)}


@torch.no_grad()
def draw(model, seed):
    """The recipe above, in the order of the parameters' names."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        if parameter.dim() > 1:
            half = 0.15 if ".norm" in name or name.startswith("norm") else 1.0
            parameter.normal_(0, half / parameter[0].numel() ** 0.5, generator=generator)
        elif name.endswith("bias"):
            parameter.normal_(0, 0.02, generator=generator)
        else:
            parameter.normal_(1, 0.1, generator=generator)


def make_transformer(size, double=None, single=None):
    """A random FluxTransformer2DModel of a size by name, in bf16, with other numbers of blocks where given."""
    config = {**FluxTransformer2DModel.load_config(TINY / "transformer"), **WIDTHS, **SIZES[size]}
    if double is not None:
        config["num_layers"] = double
    if single is not None:
        config["num_single_layers"] = single
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(DEVICE):
        model = FluxTransformer2DModel.from_config(config)
    torch.set_default_dtype(torch.float32)
    draw(model.requires_grad_(False), seed=1)
    return model.eval()


def make_encoders():
    """{folder: model} of CLIP-L, T5-XXL and FLUX.1's VAE, random by their own libraries' first weights."""
    torch.manual_seed(2)
    tokens = json.loads((TINY / "text_encoder" / "config.json").read_text())
    clip = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, vocab_size=49408,
        projection_dim=768, hidden_act="quick_gelu", **{k: tokens[k] for k in tokens if k.endswith("_token_id")})  # fmt: skip
    t5 = T5Config(d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, vocab_size=32128,
                  feed_forward_proj="gated-gelu", tie_word_embeddings=False)  # fmt: skip
    vae = {**AutoencoderKL.load_config(TINY / "vae"), "block_out_channels": (128, 256, 512, 512), "norm_num_groups": 32,
           "layers_per_block": 2, "latent_channels": 16}  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(DEVICE):
        models = {"text_encoder": CLIPTextModel(clip), "text_encoder_2": T5EncoderModel(t5)}
        models["vae"] = AutoencoderKL.from_config(vae)
    torch.set_default_dtype(torch.float32)
    return {name: model.to(torch.bfloat16).requires_grad_(False).eval() for name, model in models.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--double", type=int, help="double blocks, where not the size's own")
    parser.add_argument("--single", type=int, help="single blocks likewise")
    parser.add_argument("--only", choices=("transformer",), help="leave the rest of the pipeline away")
    options = parser.parse_args()

    models = {"transformer": make_transformer(options.size, options.double, options.single)}
    made = ["transformer"]
    if options.size == "flux" and not options.only:
        models.update(make_encoders())
        made += ["text_encoder", "text_encoder_2", "vae"]
    if not options.only:
        shutil.copytree(TINY, options.output, ignore=shutil.ignore_patterns(*made, "tokenizer*.lock"))
    for name in made:
        models[name].save_pretrained(options.output / name)
        print(f"{options.output / name}: {models[name].num_parameters()} parameters")


if __name__ == "__main__":
    main()
