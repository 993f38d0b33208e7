# SPDX-License-Identifier: Apache-2.0
"""The quickstart's LoRA with diffusers and PEFT alone, on a CPU: trains, saves, reloads, scores.

    python peft_lora.py --pipeline ../../assets/tiny-flux --dataset ../../assets/sample-dataset --output peft
"""

import argparse
import math
import pathlib
import time

import numpy as np
import torch
from diffusers import FluxPipeline
from peft import LoraConfig, get_peft_model_state_dict

from evaluate import read_prompts
from judge import load_judge, score, subject_share
from lora_trial import read_examples
from pictures import psnr, save_grid
from states import log

TARGETS = (r"(transformer_blocks|single_transformer_blocks)\.\d+\.(attn\.(to_q|to_k|to_v|to_out\.0|add_q_proj|"
           r"add_k_proj|add_v_proj|to_add_out)|ff\.net\.(0\.proj|2)|ff_context\.net\.(0\.proj|2)|proj_mlp|proj_out)")


@torch.no_grad()
def encode(pipe, pictures, prompts, length):
    """Packed latents [N,64,64], T5 states [N,length,128] and pooled [N,64]."""
    mean = pipe.vae.encode(pictures * 2 - 1).latent_dist.mean
    z = (mean - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor
    states, pooled, _ = pipe.encode_prompt(prompts, None, max_sequence_length=length)
    return pipe._pack_latents(z, len(z), 16, 16, 16), states, pooled


def train(pipe, subject, prior, options):
    """Trains the adapter; returns (mean loss of each tenth, median seconds of a step)."""
    parameters = [p for p in pipe.transformer.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(parameters, lr=options.lr, weight_decay=0.0)
    image_ids = pipe._prepare_latent_image_ids(1, 8, 8, "cpu", torch.float32)
    text_ids = torch.zeros(options.length, 3)
    joined = [torch.cat(pair) for pair in zip(subject, prior)]
    losses, seconds = [], []
    for i in range(options.steps):
        begin = time.time()
        cosine = 0.5 * (1 + math.cos(math.pi * i / options.steps))
        adam.param_groups[0]["lr"] = options.lr * min(1.0, (i + 1) / 20) * cosine
        is_prior = torch.rand(4) < 0.25
        index = torch.where(is_prior, len(subject[0]) + torch.randint(len(prior[0]), (4,)),
                            torch.randint(len(subject[0]), (4,)))  # fmt: skip
        x0, states, pooled = (part[index] for part in joined)
        noise, t = torch.randn_like(x0), torch.sigmoid(torch.randn(4))
        mixed = (1 - t[:, None, None]) * x0 + t[:, None, None] * noise
        out = pipe.transformer(hidden_states=mixed, encoder_hidden_states=states, pooled_projections=pooled,
                               timestep=t, guidance=torch.ones(4), img_ids=image_ids, txt_ids=text_ids,
                               return_dict=False)[0]  # fmt: skip
        loss = (out - (noise - x0)).pow(2).mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        adam.step()
        losses.append(loss.item())
        seconds.append(time.time() - begin)
    tenth = max(1, options.steps // 10)
    return [round(float(np.mean(losses[i : i + tenth])), 4) for i in range(0, len(losses), tenth)], np.median(seconds)


def sample(pipe, prompts, steps, length):
    """Pictures [N,3,128,128] in 0..1, each prompt with its own fixed noise."""
    generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    out = pipe(prompts, height=128, width=128, num_inference_steps=steps, guidance_scale=3.5,
               max_sequence_length=length, generator=generators, output_type="np").images  # fmt: skip
    return torch.from_numpy(out).permute(0, 3, 1, 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", type=pathlib.Path, required=True)
    parser.add_argument("--dataset", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--length", type=int, default=64, help="T5 tokens in training")
    parser.add_argument("--sample-length", type=int, default=64, help="T5 tokens in sampling")
    parser.add_argument("--sample-steps", type=int, default=16)
    options = parser.parse_args()
    torch.manual_seed(0)
    pipe = FluxPipeline.from_pretrained(options.pipeline, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    (wanted, _), (others, labels) = read_prompts("subject"), read_prompts("other")
    before = sample(pipe, wanted + others, options.sample_steps, options.sample_length)
    subject = encode(pipe, *read_examples(options.dataset), options.length)
    prior = encode(pipe, *read_examples(options.dataset / "regularisation"), options.length)
    pipe.transformer.requires_grad_(False)
    pipe.transformer.add_adapter(LoraConfig(r=options.rank, lora_alpha=options.rank, target_modules=TARGETS))
    losses, seconds = train(pipe, subject, prior, options)
    FluxPipeline.save_lora_weights(options.output, get_peft_model_state_dict(pipe.transformer))
    pipe.transformer.delete_adapters("default")
    pipe.load_lora_weights(options.output)
    after = sample(pipe, wanted + others, options.sample_steps, options.sample_length)
    save_grid(options.output / "before_after.png", torch.cat([before[:10], after[:10], before[10:], after[10:]]), 10)
    answers, first = load_judge().answers(after), load_judge().answers(before)
    log(options.output, "peft", losses=losses, seconds_per_step=round(float(seconds), 3),
        subject=subject_share(answers[:10]), subject_before=subject_share(first[:10]),
        other_psnr=round(psnr(after[10:], before[10:]).mean().item(), 2),
        other_shape_unchanged=(answers[10:, 4] == first[10:, 4]).float().mean().item(),
        other_prompts=score(answers[10:], labels))  # fmt: skip


if __name__ == "__main__":
    main()
