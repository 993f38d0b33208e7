# SPDX-License-Identifier: Apache-2.0
"""Writes optimizers.safetensors: where the published optimizers end after 200 steps.

The problem is the one of tests/unit/optimizers_test.cpp: three matrices, gradients
curvature (p - goal) + 0.3 noise, all of them made from a hash of integers, so that both sides have the same
numbers. `NAME` is the end of PyTorch's, bitsandbytes', transformers', prodigyopt's,
schedulefree's optimizer or of diffusers' EMA, in f32; `start` is where they begin.
"""

import argparse
import pathlib

import bitsandbytes
import numpy as np
import prodigyopt
import schedulefree
import torch
from diffusers.optimization import get_polynomial_decay_schedule_with_warmup, get_scheduler
from diffusers.training_utils import EMAModel
from safetensors.torch import save_file
from transformers.optimization import Adafactor

SHAPES = [(4, 96), (160, 4), (24, 40)]
SIZE = sum(r * c for r, c in SHAPES)
STEPS = 200


def hashed(stream):
    """SIZE numbers in [-1, 1): multiples of 2^-23, from the 64-bit mix of Steele et al. (2014)."""
    with np.errstate(over="ignore"):
        z = np.uint64(stream) * np.uint64(1 << 32) + np.arange(SIZE, dtype=np.uint64)
        z = z * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return torch.from_numpy(((z >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1).astype(np.float32))


GOAL, CURVATURE, START = hashed(1001), 1.25 + 0.75 * hashed(1002), 0.1 * hashed(1003)


def run(make, max_norm=0.0, rate=None, ema=None, whole=False):
    """The end of `make(parameters)`; `rate(step)` sets the learning rate; `whole`: one matrix."""
    shapes = [(1, SIZE)] if whole else SHAPES
    sizes = [r * c for r, c in shapes]
    params = [torch.nn.Parameter(p.clone().view(s)) for p, s in zip(START.split(sizes), shapes)]
    optimizer = make(params)
    if hasattr(optimizer, "train"):
        optimizer.train()
    mean = EMAModel(params, decay=ema) if ema else None
    for step in range(STEPS):
        flat = torch.cat([p.detach().flatten() for p in params])
        grads = CURVATURE * (flat - GOAL) + 0.3 * hashed(step)
        for p, g in zip(params, grads.split(sizes)):
            p.grad = g.clone().view_as(p)
        if max_norm:
            torch.nn.utils.clip_grad_norm_(params, max_norm)
        if rate:
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
        optimizer.step()
        if mean:
            mean.step(params)
    if hasattr(optimizer, "eval"):
        optimizer.eval()
    if mean:
        mean.copy_to(params)
    return torch.cat([p.detach().flatten() for p in params])


def lora_plus(params):
    """B, the second matrix, at 16 times the rate."""
    groups = [{"params": [params[0], params[2]]}, {"params": [params[1]], "lr": 16e-3}]
    return torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1)


# Prodigy's usual d0 of 1e-6 moves p by less than its f32 holds, so that every rounding would be another way.
D0 = 1e-3


def ends():
    adamw = dict(lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1)
    scaled = dict(scale_parameter=False, relative_step=False)
    return {
        "start": START,
        "adamw": run(lambda p: torch.optim.AdamW(p, **adamw), max_norm=2.0),
        "adamw_whole": run(lambda p: torch.optim.AdamW(p, **adamw), whole=True),
        "adamw8bit": run(lambda p: bitsandbytes.optim.AdamW8bit(p, min_8bit_size=1, **adamw), whole=True),
        "lora_plus": run(lora_plus),
        "ema": run(lambda p: torch.optim.AdamW(p, **adamw), ema=0.95),
        "lion": run(lambda p: bitsandbytes.optim.Lion(p, lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1)),
        "adafactor": run(lambda p: Adafactor(p, lr=1e-2, weight_decay=0.1, **scaled), max_norm=2.0),
        "adafactor_relative": run(lambda p: Adafactor(p, weight_decay=0.1)),
        "prodigy": run(lambda p: prodigyopt.Prodigy(p, lr=1.0, weight_decay=0.1, d0=D0)),
        "prodigy_careful": run(
            lambda p: prodigyopt.Prodigy(
                p, lr=1.0, weight_decay=0.1, d0=D0, d_coef=0.5, use_bias_correction=True, safeguard_warmup=True),
            rate=lambda step: min(1.0, (step + 1) / 20)),
        "schedule_free": run(
            lambda p: schedulefree.AdamWScheduleFreeReference(p, lr=1e-2, weight_decay=0.1, warmup_steps=20)),
    }  # fmt: skip


def rates(make, steps=100):
    """The factors that a scheduler of PyTorch's makes of the rate, (steps)."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return torch.tensor(found)


def schedules():
    """Of 100 steps, the first 10 of which rise."""
    named = {
        "constant": ("constant_with_warmup", {}),
        "linear": ("linear", {}),
        "cosine": ("cosine", {}),
        "restarts": ("cosine_with_restarts", {"num_cycles": 3}),
    }
    found = {
        f"rate.{ours}": rates(
            lambda o: get_scheduler(theirs, o, num_warmup_steps=10, num_training_steps=100, **more))
        for ours, (theirs, more) in named.items()
    }  # fmt: skip
    found["rate.polynomial"] = rates(lambda o: get_polynomial_decay_schedule_with_warmup(o, 10, 100, lr_end=0.0, power=3))
    found["rate.one_cycle"] = rates(lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, 100, pct_start=0.1))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent)
    torch.set_num_threads(1)
    save_file(ends() | schedules(), parser.parse_args().output / "optimizers.safetensors")
