# SPDX-License-Identifier: Apache-2.0
"""FLUX.1's transformer in plain PyTorch, for speed, under the names of diffusers' state dict.

Shapes: B pictures, S_t text tokens, S_i image tokens, D model width. Activations may be bf16 while
the weights are f32: every product casts the weight to the activation's type. Equality with
diffusers' FluxTransformer2DModel is checked by check_pipeline.py.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from config import LATENT, TRANSFORMER

HEADS = TRANSFORMER["num_attention_heads"]
HEAD = TRANSFORMER["attention_head_dim"]
WIDTH = HEADS * HEAD


class Linear(nn.Linear):
    """A linear layer that may carry a LoRA: weight + lora_scale * lora_B @ lora_A."""

    lora_A = None
    lora_B = None
    lora_scale = 1.0

    def matrix(self, dtype):
        """The effective weight [out, in]."""
        weight = self.weight
        if self.lora_A is not None:
            weight = weight + self.lora_scale * (self.lora_B @ self.lora_A)
        return weight.to(dtype)

    def forward(self, x):
        return F.linear(x, self.matrix(x.dtype), self.bias.to(x.dtype))


def fused(x, *layers):
    """The outputs of several linear layers on the same input, as one product split again."""
    weight = torch.cat([layer.matrix(x.dtype) for layer in layers])
    bias = torch.cat([layer.bias for layer in layers]).to(x.dtype)
    return F.linear(x, weight, bias).split([layer.out_features for layer in layers], dim=-1)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the head dimension, weight only."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HEAD))

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (y * self.weight).to(x.dtype)


class Modulation(nn.Module):
    """linear: SiLU(conditioning) to shifts, scales and gates; the product is made for all blocks at once."""

    def __init__(self, parts):
        super().__init__()
        self.linear = Linear(WIDTH, parts * WIDTH)


class GeluIn(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = Linear(WIDTH, 4 * WIDTH)


class FeedForward(nn.Module):
    """Linear, GELU (tanh), linear."""

    def __init__(self):
        super().__init__()
        self.net = nn.ModuleList([GeluIn(), nn.Identity(), Linear(4 * WIDTH, WIDTH)])

    def forward(self, x):
        return self.net[2](F.gelu(self.net[0].proj(x), approximate="tanh"))


def modulated(x, shift, scale):
    """LayerNorm(x) * (1 + scale) + shift; x [B,S,D], shift and scale [B,D]."""
    return F.layer_norm(x, (WIDTH,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


def heads(x):
    """[B,S,D] to [B,S,HEADS,HEAD]."""
    return x.unflatten(-1, (HEADS, HEAD))


def rotate(x, angles):
    """Rotates adjacent pairs of x [B,S,HEADS,HEAD] by angles = (cos, sin), each [S,HEAD/2]."""
    cos, sin = angles
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).to(x.dtype)


def attend(q, k, v):
    """Attention over [B,S,HEADS,HEAD] to [B,S,D]."""
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2).flatten(2)


class DoubleAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm_q, self.norm_k = RMSNorm(), RMSNorm()
        self.norm_added_q, self.norm_added_k = RMSNorm(), RMSNorm()
        self.to_q, self.to_k, self.to_v = (Linear(WIDTH, WIDTH) for _ in range(3))
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (Linear(WIDTH, WIDTH) for _ in range(3))
        self.to_out = nn.ModuleList([Linear(WIDTH, WIDTH)])
        self.to_add_out = Linear(WIDTH, WIDTH)

    def forward(self, x, c, angles):
        """x image [B,S_i,D], c text [B,S_t,D], already modulated."""
        q, k, v = fused(x, self.to_q, self.to_k, self.to_v)
        tq, tk, tv = fused(c, self.add_q_proj, self.add_k_proj, self.add_v_proj)
        q = torch.cat([self.norm_added_q(heads(tq)), self.norm_q(heads(q))], dim=1)
        k = torch.cat([self.norm_added_k(heads(tk)), self.norm_k(heads(k))], dim=1)
        v = torch.cat([heads(tv), heads(v)], dim=1)
        out = attend(rotate(q, angles), rotate(k, angles), v)
        return self.to_out[0](out[:, c.shape[1] :]), self.to_add_out(out[:, : c.shape[1]])


class DoubleBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm1_context = Modulation(6), Modulation(6)
        self.attn = DoubleAttention()
        self.ff, self.ff_context = FeedForward(), FeedForward()

    def forward(self, x, c, m, n, angles):
        """x, c streams; m, n [B,6D]: shift, scale, gate of attention, then of the feed-forward."""
        s1, a1, g1, s2, a2, g2 = m.chunk(6, dim=-1)
        ts1, ta1, tg1, ts2, ta2, tg2 = n.chunk(6, dim=-1)
        dx, dc = self.attn(modulated(x, s1, a1), modulated(c, ts1, ta1), angles)
        x, c = x + g1[:, None] * dx, c + tg1[:, None] * dc
        x = x + g2[:, None] * self.ff(modulated(x, s2, a2))
        c = c + tg2[:, None] * self.ff_context(modulated(c, ts2, ta2))
        return x, c


class SingleAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm_q, self.norm_k = RMSNorm(), RMSNorm()
        self.to_q, self.to_k, self.to_v = (Linear(WIDTH, WIDTH) for _ in range(3))


class SingleBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = Modulation(3)
        self.proj_mlp, self.proj_out = Linear(WIDTH, 4 * WIDTH), Linear(5 * WIDTH, WIDTH)
        self.attn = SingleAttention()

    def forward(self, u, m, angles):
        """u [B,S,D] text first; m [B,3D]: shift, scale, gate."""
        shift, scale, gate = m.chunk(3, dim=-1)
        a = self.attn
        q, k, v, h = fused(modulated(u, shift, scale), a.to_q, a.to_k, a.to_v, self.proj_mlp)
        q, k = rotate(a.norm_q(heads(q)), angles), rotate(a.norm_k(heads(k)), angles)
        h = torch.cat([attend(q, k, heads(v)), F.gelu(h, approximate="tanh")], dim=-1)
        return u + gate[:, None] * self.proj_out(h)


class TwoLayers(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.linear_1, self.linear_2 = Linear(inputs, WIDTH), Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.linear_2(F.silu(self.linear_1(x)))


class TimeText(nn.Module):
    def __init__(self):
        super().__init__()
        self.timestep_embedder, self.guidance_embedder = TwoLayers(256), TwoLayers(256)
        self.text_embedder = TwoLayers(TRANSFORMER["pooled_projection_dim"])


def sinusoid(tau):
    """[B,256] of tau [B]: cosines, then sines."""
    f = torch.exp(-math.log(10000) * torch.arange(128, device=tau.device, dtype=torch.float32) / 128)
    angle = tau.float()[:, None] * f
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def rope_angles(text_tokens, device):
    """(cos, sin), each [S_t + 64, HEAD/2]: text at (0,0,0), image token at (0,y,x)."""
    side = LATENT // 2
    ids = torch.zeros(text_tokens + side * side, 3, dtype=torch.float64)
    ids[text_tokens:, 1] = torch.arange(side).repeat_interleave(side)
    ids[text_tokens:, 2] = torch.arange(side).repeat(side)
    parts = []
    for axis, n in enumerate(TRANSFORMER["axes_dims_rope"]):
        omega = 10000.0 ** (-torch.arange(0, n, 2, dtype=torch.float64) / n)
        parts.append(ids[:, axis, None] * omega)
    angle = torch.cat(parts, dim=-1)
    return angle.cos().float().to(device), angle.sin().float().to(device)


class Flux(nn.Module):
    """The transformer: (latents, text states, pooled, t, g) to velocity."""

    def __init__(self):
        super().__init__()
        self.time_text_embed = TimeText()
        self.context_embedder = Linear(TRANSFORMER["joint_attention_dim"], WIDTH)
        self.x_embedder = Linear(TRANSFORMER["in_channels"], WIDTH)
        self.transformer_blocks = nn.ModuleList([DoubleBlock() for _ in range(TRANSFORMER["num_layers"])])
        self.single_transformer_blocks = nn.ModuleList(
            [SingleBlock() for _ in range(TRANSFORMER["num_single_layers"])]
        )
        self.norm_out = Modulation(2)
        self.proj_out = Linear(WIDTH, TRANSFORMER["in_channels"])
        self.tables = {}
        self.initialise()

    def initialise(self):
        """Xavier for matrices, zero for biases, modulations and the output layer."""
        for module in self.modules():
            if isinstance(module, Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Modulation):
                nn.init.zeros_(module.linear.weight)
        nn.init.zeros_(self.proj_out.weight)

    def angles(self, text_tokens, device):
        key = (text_tokens, str(device))
        if key not in self.tables:
            self.tables[key] = rope_angles(text_tokens, device)
        return self.tables[key]

    def modulations(self):
        """Every modulation layer, in the order in which forward consumes the fused product."""
        layers = [m.linear for b in self.transformer_blocks for m in (b.norm1, b.norm1_context)]
        return [*layers, *(b.norm.linear for b in self.single_transformer_blocks), self.norm_out.linear]

    def forward(self, tokens, text, pooled, t, g):
        """tokens [B,64,64] packed latents, text [B,S_t,128], pooled [B,64], t and g [B]: [B,64,64]."""
        dtype = tokens.dtype
        embed = self.time_text_embed
        vec = embed.timestep_embedder(sinusoid(1000 * t).to(dtype)) + embed.text_embedder(pooled.to(dtype))
        vec = vec + embed.guidance_embedder(sinusoid(1000 * g).to(dtype))
        mods = iter(fused(F.silu(vec), *self.modulations()))
        angles = self.angles(text.shape[1], tokens.device)
        x, c = self.x_embedder(tokens), self.context_embedder(text.to(dtype))
        for block in self.transformer_blocks:
            x, c = block(x, c, next(mods), next(mods), angles)
        u = torch.cat([c, x], dim=1)
        for block in self.single_transformer_blocks:
            u = block(u, next(mods), angles)
        scale, shift = next(mods).chunk(2, dim=-1)
        return self.proj_out(modulated(u[:, text.shape[1] :], shift, scale))


def pack(z):
    """Latents [B,16,16,16] to tokens [B,64,64]: channel slowest, then the row and column in the 2x2 patch."""
    b, c, h, w = z.shape
    return z.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def unpack(tokens):
    """The inverse of pack for square pictures."""
    b, n, c = tokens.shape
    side = math.isqrt(n)
    z = tokens.reshape(b, side, side, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return z.reshape(b, c // 4, 2 * side, 2 * side)


def shifted_sigmas(steps, tokens=64):
    """The sigmas of FluxPipeline with dynamic shift, steps + 1 floats from 1 to 0."""
    mu = (1.15 - 0.5) / (4096 - 256) * (tokens - 256) + 0.5
    plain = [1 - i / steps for i in range(steps)]
    return [math.exp(mu) / (math.exp(mu) + 1 / s - 1) for s in plain] + [0.0]
