# SPDX-License-Identifier: Apache-2.0
"""Checks that diffusers and transformers read the pipeline and give what the training code gives.

    python check_pipeline.py --pipeline ../../assets/tiny-flux
"""

import argparse
import pathlib

import torch
from diffusers import FluxPipeline

import captions
import world
from config import CLIP_TOKENS, TEXT_TOKENS
from flux_model import pack, unpack
from pipeline_files import read_pipeline
from tokens import encode_captions


def difference(ours, theirs):
    """Norm of the difference over the norm."""
    return float((ours - theirs).norm() / theirs.norm())


def check_tokens(pipe, folder, texts):
    clip, t5 = encode_captions(folder, texts)
    kind = dict(padding="max_length", truncation=True, return_tensors="pt")
    assert (pipe.tokenizer(texts, max_length=CLIP_TOKENS, **kind).input_ids.numpy() == clip).all()
    assert (pipe.tokenizer_2(texts, max_length=TEXT_TOKENS, **kind).input_ids.numpy() == t5).all()
    return torch.from_numpy(clip).long(), torch.from_numpy(t5).long()


@torch.no_grad()
def check_networks(pipe, models, clip, t5):
    """Relative differences of the four networks on random inputs, in f32."""
    found = {}
    states = pipe.text_encoder_2(t5)[0]
    found["T5"] = difference(models["text_encoder_2"](t5), states)
    found["T5, 512 tokens"] = difference(
        models["text_encoder_2"](torch.nn.functional.pad(t5[:2], (0, 512 - t5.shape[1]))),
        pipe.text_encoder_2(torch.nn.functional.pad(t5[:2], (0, 512 - t5.shape[1])))[0])  # fmt: skip
    padded = torch.nn.functional.pad(clip, (0, 77 - clip.shape[1]), value=pipe.tokenizer.eos_token_id)
    pooled = pipe.text_encoder(padded).pooler_output
    found["CLIP"] = difference(models["text_encoder"](clip), pooled)
    z = torch.randn(len(t5), 16, 16, 16)
    tokens = pack(z)
    assert torch.equal(unpack(tokens), z)
    assert torch.equal(pipe._pack_latents(z, len(z), 16, 16, 16), tokens)
    t, g = torch.rand(len(z)), 1 + 5 * torch.rand(len(z))
    image_ids = pipe._prepare_latent_image_ids(len(z), 8, 8, "cpu", torch.float32)
    theirs = pipe.transformer(
        hidden_states=tokens, encoder_hidden_states=states, pooled_projections=pooled, timestep=t, guidance=g,
        img_ids=image_ids, txt_ids=torch.zeros(t5.shape[1], 3), return_dict=False)[0]  # fmt: skip
    found["transformer"] = difference(models["transformer"](tokens, states, pooled, t, g), theirs)
    pictures = torch.rand(2, 3, 128, 128) * 2 - 1
    found["VAE encoder"] = difference(models["vae"].encode(pictures)[0], pipe.vae.encode(pictures).latent_dist.mean)
    found["VAE decoder"] = difference(models["vae"].decode(z[:2]), pipe.vae.decode(z[:2]).sample)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", type=pathlib.Path, required=True)
    options = parser.parse_args()
    torch.manual_seed(0)
    pipe = FluxPipeline.from_pretrained(options.pipeline, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    rng = world.seeded("check")
    writer = captions.CaptionWriter(rng)
    texts = [writer.write(world.random_scene(rng)) for _ in range(2000)]
    clip, t5 = check_tokens(pipe, options.pipeline, texts)
    print("2000 captions: the ids equal transformers'")
    found = check_networks(pipe, read_pipeline(options.pipeline)[0], clip[:4], t5[:4])
    for name, value in found.items():
        print(f"{name}: relative difference {value:.1e}")
    picture = pipe("a red star on a blue background", height=128, width=128, num_inference_steps=2).images[0]
    size = sum(f.stat().st_size for f in options.pipeline.rglob("*") if f.is_file())
    print(f"FluxPipeline gives a picture of {picture.size}; the folder holds {size} bytes")
    assert max(found.values()) < 1e-4 and size <= 12_000_000


if __name__ == "__main__":
    main()
