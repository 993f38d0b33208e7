# SPDX-License-Identifier: Apache-2.0
"""The saliency network: a small U-Net; src/prepare/saliency.cpp runs the same."""

import torch
from torch import nn
from torch.nn import functional as F

GROUPS = 8


class Conv(nn.Module):
    """3x3 convolution, GroupNorm, SiLU."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.GroupNorm(GROUPS, outputs, eps=1e-6)

    def forward(self, x):
        return F.silu(self.norm(self.conv(x)))


class Saliency(nn.Module):
    """(B, 3, H, W) in [-1, 1], H and W multiples of 32, to logits (B, 1, H/4, W/4)."""

    def __init__(self):
        super().__init__()
        self.halved = Conv(3, 16, 2)
        self.quarter = Conv(16, 32, 2)
        self.eighth = nn.ModuleList([Conv(32, 64, 2), Conv(64, 64)])
        self.sixteenth = nn.ModuleList([Conv(64, 96, 2), Conv(96, 96)])
        self.bottom = nn.ModuleList([Conv(96, 128, 2), Conv(128, 128)])
        self.narrow = nn.Conv2d(128, 96, 1)
        self.up_sixteenth = Conv(96, 64)
        self.up_eighth = Conv(64, 32)
        self.up_quarter = Conv(32, 32)
        self.out = nn.Conv2d(32, 1, 1)

    def forward(self, x):
        quarter = self.quarter(self.halved(x))
        eighth = self.eighth[1](self.eighth[0](quarter))
        sixteenth = self.sixteenth[1](self.sixteenth[0](eighth))
        bottom = self.narrow(self.bottom[1](self.bottom[0](sixteenth)))
        double = lambda y: F.interpolate(y, scale_factor=2, mode="nearest")
        y = self.up_sixteenth(double(bottom) + sixteenth)
        y = self.up_eighth(double(y) + eighth)
        return self.out(self.up_quarter(double(y) + quarter))


def stored(state):
    """State dict as the file has it: convolutions as (out, kh, kw, in), all in f16."""
    tensors = {}
    for name, tensor in state.items():
        if tensor.dim() == 4:
            tensor = tensor.permute(0, 2, 3, 1)
        tensors[name] = tensor.to(torch.float16).contiguous()
    return tensors
