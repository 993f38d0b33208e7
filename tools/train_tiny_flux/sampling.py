# SPDX-License-Identifier: Apache-2.0
"""Euler sampling as in FluxPipeline, in plain PyTorch."""

import torch
import torch.nn.functional as F

from flux_model import shifted_sigmas, unpack
from tokens import encode_captions


def fixed_noise(count, seed=0):
    """Packed noise [count,64,64], the same on every device."""
    return torch.randn(count, 64, 64, generator=torch.Generator().manual_seed(seed))


class Sampler:
    """Draws pictures of prompts with a set of models (by folder name)."""

    def __init__(self, models, scaling, shift, pipeline, device, dtype=torch.float32):
        self.models, self.scaling, self.shift = models, scaling, shift
        self.pipeline, self.device, self.dtype = pipeline, device, dtype

    @torch.no_grad()
    def encode(self, prompts, length=64):
        """(text states [B,length,128], pooled [B,64]) of prompts."""
        clip, t5 = (torch.from_numpy(a).long().to(self.device) for a in encode_captions(self.pipeline, prompts))
        t5 = F.pad(t5, (0, length - t5.shape[1]))
        return self.models["text_encoder_2"](t5, self.dtype), self.models["text_encoder"](clip, self.dtype)

    @torch.no_grad()
    def decode(self, tokens):
        """Pictures [B,3,128,128] in 0..1 of packed, scaled latents."""
        z = unpack(tokens.float()) / self.scaling + self.shift
        return torch.cat([self.models["vae"].decode(part) for part in z.split(64)]).float().div(2).add(0.5).clamp(0, 1)

    @torch.no_grad()
    def sample(self, prompts, noise, guidance=3.5, steps=16, length=64, cfg=None, batch=100):
        """Pictures [B,3,128,128]; cfg: classifier-free guidance of a teacher instead of the guidance input."""
        found = []
        for at in range(0, len(prompts), batch):
            text = self.encode(prompts[at : at + batch], length)
            empty = self.encode([""] * len(text[0]), length) if cfg else None
            x = noise[at : at + batch].to(self.device)
            sigmas = shifted_sigmas(steps)
            for now, after in zip(sigmas, sigmas[1:]):
                v = self.velocity(x, text, now, 1.0 if cfg else guidance)
                if cfg:
                    u = self.velocity(x, empty, now, 1.0)
                    v = u + cfg * (v - u)
                x = x + (after - now) * v
            found.append(self.decode(x))
        return torch.cat(found)

    def velocity(self, x, text, t, g):
        """The transformer's output, f32."""
        full = torch.full((len(x),), 1.0, device=self.device)
        return self.models["transformer"](x.to(self.dtype), *text, t * full, g * full).float()
