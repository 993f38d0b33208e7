# SPDX-License-Identifier: Apache-2.0
"""The other side of cpu_vs_peft.py: LoRA steps of diffusers + PEFT on the CPU, a JSON object on stdout.

Loads the transformer alone (f32) and takes latents and text states as given, as a trainer with a cache does.
"""

import argparse
import json
import re
import resource
import time

import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig

TARGETS = (
    r"transformer_blocks\.\d+\.(attn\.(to_q|to_k|to_v|to_out\.0|add_[qkv]_proj|to_add_out)"
    r"|ff\.net\.(0\.proj|2)|ff_context\.net\.(0\.proj|2))"
    r"|single_transformer_blocks\.\d+\.(attn\.to_[qkv]|proj_mlp|proj_out)"
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    for name, default in (("steps", 25), ("batch", 4), ("rank", 16), ("grid", 8), ("text-tokens", 64), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    model = FluxTransformer2DModel.from_pretrained(options.model, subfolder="transformer", torch_dtype=torch.float32)
    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=options.rank, lora_alpha=options.rank, target_modules=TARGETS))
    adapted = sum(1 for n, m in model.named_modules() if re.fullmatch(TARGETS, n))
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert len(parameters) == 2 * adapted
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01)

    c, tokens = model.config, options.grid**2
    x0 = torch.randn(options.batch, tokens, c.in_channels)
    txt = torch.randn(options.batch, options.text_tokens, c.joint_attention_dim)
    pooled = torch.randn(options.batch, c.pooled_projection_dim)
    y, x = torch.meshgrid(torch.arange(options.grid), torch.arange(options.grid), indexing="ij")
    image_ids = torch.stack([torch.zeros_like(x), y, x], -1).reshape(tokens, 3).float()
    text_ids = torch.zeros(options.text_tokens, 3)
    guidance = torch.ones(options.batch) if c.guidance_embeds else None

    seconds = []
    for _ in range(options.steps):
        start = time.perf_counter()
        noise = torch.randn_like(x0)
        t = torch.sigmoid(torch.randn(options.batch))
        w = t.view(-1, 1, 1)
        prediction = model(
            hidden_states=(1 - w) * x0 + w * noise, encoder_hidden_states=txt, pooled_projections=pooled, timestep=t,
            guidance=guidance, img_ids=image_ids, txt_ids=text_ids, return_dict=False)[0]  # fmt: skip
        loss = (prediction - (noise - x0)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak_bytes": peak, "adapted": adapted}))


if __name__ == "__main__":
    main()
