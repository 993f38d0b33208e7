# SPDX-License-Identifier: Apache-2.0
"""Trains the saliency network on composites and writes its weights.

    python train.py --output ../../assets/saliency/saliency.safetensors
"""

import argparse
import pathlib
import time

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from composites import Maker, emoji, photographs
from network import Saliency, stored

LONG, SHORT = 128, (64, 64, 96, 96, 128)


def batch(maker, rng, count):
    """Pictures (B, 3, H, W) in [-1, 1] and masks (B, 1, H/4, W/4) in [0, 1] of one shape. The second
    half is the first turned upside down with its colours in another order: most of the time goes
    into making pictures."""
    short = int(rng.choice(SHORT))
    width, height = (LONG, short) if rng.random() < 0.5 else (short, LONG)
    made = [maker.composite(rng, width, height) for _ in range(count // 2)]
    pictures = torch.from_numpy(np.stack([p for p, _ in made])).permute(0, 3, 1, 2).float() / 127.5 - 1
    masks = torch.from_numpy(np.stack([m for _, m in made])).unsqueeze(1).float() / 255
    pictures = torch.cat([pictures, pictures[:, rng.permutation(3)].flip(2, 3)])
    masks = torch.cat([masks, masks.flip(2, 3)])
    return pictures, F.avg_pool2d(masks, 4)


def loss_of(logits, masks):
    """Cross entropy, and one minus the overlap (Dice) for subjects of every size alike."""
    p = torch.sigmoid(logits)
    overlap = (2 * (p * masks).sum((1, 2, 3)) + 1) / ((p + masks).sum((1, 2, 3)) + 1)
    return F.binary_cross_entropy_with_logits(logits, masks) + (1 - overlap).mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", nargs="+", default=["/usr/share/backgrounds/mate", "/usr/share/backgrounds/gnome"])
    parser.add_argument("--emoji", default="/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
    parser.add_argument("--output", required=True)
    parser.add_argument("--steps", type=int, default=5400)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--save-every", type=int, default=300)
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    maker = Maker(photographs(args.photographs), emoji(args.emoji))
    print(f"{len(maker.photos)} photographs, {len(maker.glyphs)} glyphs", flush=True)
    net = Saliency().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), args.learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.learning_rate, args.steps, pct_start=0.08)
    started, losses = time.process_time(), []
    for step in range(1, args.steps + 1):
        pictures, masks = batch(maker, rng, args.batch)
        loss = loss_of(net(pictures), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 50 == 0:
            print(f"step {step} loss {np.mean(losses[-50:]):.4f} {time.process_time() - started:.0f} CPU seconds", flush=True)
        if step % args.save_every == 0 or step == args.steps:
            pathlib.Path(args.output).parent.mkdir(parents=True, exist_ok=True)
            save_file(stored(net.state_dict()), args.output)


if __name__ == "__main__":
    main()
