# SPDX-License-Identifier: Apache-2.0
"""FLUX.1's autoencoder in plain PyTorch, under the names of diffusers' AutoencoderKL.

Pictures are [B,3,128,128] in -1..1, latents [B,16,16,16]. Checked by check_pipeline.py.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from config import VAE

WIDTHS = VAE["block_out_channels"]
GROUPS = VAE["norm_num_groups"]
LAYERS = VAE["layers_per_block"]


def normed(x, weight, bias):
    """GroupNorm of x [B,C,H,W] with its statistics in f32, in the type of x."""
    y = x.float()
    mean, square = (m.unflatten(1, (GROUPS, -1)).mean(-1) for m in (y.mean((2, 3)), (y * y).mean((2, 3))))
    scale = torch.rsqrt((square - mean * mean).clamp(min=0) + 1e-6)
    repeat = x.shape[1] // GROUPS
    gain = scale.repeat_interleave(repeat, 1) * weight
    offset = bias - mean.repeat_interleave(repeat, 1) * gain
    return (y * gain[:, :, None, None] + offset[:, :, None, None]).to(x.dtype)


def normed_silu(x, weight, bias):
    """SiLU(GroupNorm(x))."""
    return F.silu(normed(x, weight, bias))


FAST = {"normed_silu": normed_silu}


def compile_norms():
    """Fuses the norm and SiLU passes (worth it on a GPU)."""
    FAST["normed_silu"] = torch.compile(normed_silu, dynamic=False)


class Conv(nn.Conv2d):
    """A convolution in the type of its input."""

    def forward(self, x):
        weight = self.weight.to(dtype=x.dtype, memory_format=torch.channels_last)
        return F.conv2d(x, weight, self.bias.to(x.dtype), self.stride, self.padding)


class NormSilu(nn.GroupNorm):
    def __init__(self, channels):
        super().__init__(GROUPS, channels, eps=1e-6)

    def forward(self, x):
        return FAST["normed_silu"](x, self.weight, self.bias)


class Resnet(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.norm1, self.conv1 = NormSilu(inputs), Conv(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = NormSilu(outputs), Conv(outputs, outputs, 3, padding=1)
        self.conv_shortcut = Conv(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x):
        h = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.group_norm = nn.GroupNorm(GROUPS, channels, eps=1e-6)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x):
        n = normed(x, self.group_norm.weight, self.group_norm.bias).flatten(2).transpose(1, 2)
        q, k, v = (F.linear(n, p.weight.to(n.dtype), p.bias.to(n.dtype)) for p in (self.to_q, self.to_k, self.to_v))
        weights = ((q @ k.transpose(1, 2)).float() / math.sqrt(q.shape[-1])).softmax(-1).to(n.dtype)
        out = self.to_out[0]
        h = F.linear(weights @ v, out.weight.to(n.dtype), out.bias.to(n.dtype))
        return x + h.transpose(1, 2).unflatten(2, x.shape[2:]).contiguous(memory_format=torch.channels_last)


class Middle(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.attentions = nn.ModuleList([Attention(channels)])
        self.resnets = nn.ModuleList([Resnet(channels, channels), Resnet(channels, channels)])

    def forward(self, x):
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Down(nn.Module):
    """Halves the sides after a pad of one row below and one column right."""

    def __init__(self, channels):
        super().__init__()
        self.conv = Conv(channels, channels, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    """Doubles the sides by repetition, then a convolution."""

    def __init__(self, channels):
        super().__init__()
        self.conv = Conv(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Level(nn.Module):
    """Residual layers at one resolution, then a change of resolution if resample is given."""

    def __init__(self, inputs, outputs, layers, name, resample):
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(inputs if i == 0 else outputs, outputs) for i in range(layers)])
        self.name = name
        if resample:
            setattr(self, name, nn.ModuleList([resample(outputs)]))

    def forward(self, x):
        for resnet in self.resnets:
            x = resnet(x)
        return getattr(self, self.name)[0](x) if hasattr(self, self.name) else x


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_in = Conv(3, WIDTHS[0], 3, padding=1)
        last = len(WIDTHS) - 1
        self.down_blocks = nn.ModuleList([
            Level(WIDTHS[max(i - 1, 0)], WIDTHS[i], LAYERS, "downsamplers", Down if i < last else None)
            for i in range(last + 1)
        ])  # fmt: skip
        self.mid_block = Middle(WIDTHS[-1])
        self.conv_norm_out = NormSilu(WIDTHS[-1])
        self.conv_out = Conv(WIDTHS[-1], 2 * VAE["latent_channels"], 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(self.conv_norm_out(self.mid_block(x)))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        widths = WIDTHS[::-1]
        last = len(widths) - 1
        self.conv_in = Conv(VAE["latent_channels"], widths[0], 3, padding=1)
        self.mid_block = Middle(widths[0])
        self.up_blocks = nn.ModuleList([
            Level(widths[max(i - 1, 0)], widths[i], LAYERS + 1, "upsamplers", Up if i < last else None)
            for i in range(last + 1)
        ])  # fmt: skip
        self.conv_norm_out = NormSilu(widths[-1])
        self.conv_out = Conv(widths[-1], 3, 3, padding=1)

    def forward(self, z):
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(self.conv_norm_out(x))


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()

    def encode(self, x):
        """(mean, log variance), each [B,16,16,16], of pictures [B,3,128,128] in -1..1."""
        mean, log_variance = self.encoder(x.contiguous(memory_format=torch.channels_last)).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def decode(self, z):
        """Pictures [B,3,128,128] in -1..1 of raw latents."""
        return self.decoder(z.contiguous(memory_format=torch.channels_last))
