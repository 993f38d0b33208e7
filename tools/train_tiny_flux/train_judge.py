# SPDX-License-Identifier: Apache-2.0
"""Stage 2: trains the judge on rendered scenes.

    python train_judge.py --state state --minutes 1.5
"""

import argparse
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from data import draw, make_scenes
from judge import HEADS, Judge, judge_renders, load_judge
from optim import Clock
from states import log


def disturbed(pictures):
    """Pictures in 0..1 with noise, blur and a change of contrast, each by a random amount."""
    count, device = len(pictures), pictures.device
    amount = torch.rand(3, count, 1, 1, 1, device=device)
    soft = F.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)
    x = pictures + amount[0] * (soft - pictures)
    x = (x - 0.5) * (1 + 0.1 * (amount[1] - 0.5)) + 0.5
    return (x + 0.05 * amount[2].pow(2) * torch.randn_like(x)).clamp(0, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=pathlib.Path, required=True)
    parser.add_argument("--minutes", type=float, default=1.5)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--scenes", type=int, default=65536)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    options.state.mkdir(parents=True, exist_ok=True)
    rows, labels, _, _ = make_scenes("judge", options.scenes, "judge", workers=options.workers)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(4)
    pictures, labels = draw(rows, device)[0], torch.from_numpy(labels).long().to(device)
    judge = Judge().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=options.lr, weight_decay=0.02)
    losses, clock = torch.zeros(1, device=device), Clock(options.minutes, warmup=100, hold=0.3, report=1000)
    while clock.running():
        optimizer.param_groups[0]["lr"] = options.lr * clock.share()
        index = torch.randint(len(pictures), (options.batch,), device=device)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            out = judge(disturbed(pictures[index].float() / 255))
        loss = sum(F.cross_entropy(out[name].float(), labels[index, i], ignore_index=-1, reduction="sum")
                   for i, name in enumerate(HEADS)) / options.batch  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses += loss.detach()
        clock.tick(losses)
    tensors = {k: (v.half() if v.is_floating_point() else v).cpu().contiguous() for k, v in judge.state_dict().items()}
    save_file(tensors, options.state / "judge.safetensors")
    figures, shapes = judge_renders(load_judge(options.state / "judge.safetensors", device))
    log(options.state, "judge", steps=clock.done, renders=figures, shapes=shapes)


if __name__ == "__main__":
    main()
