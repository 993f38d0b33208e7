# SPDX-License-Identifier: Apache-2.0
"""What a run leaves in its folder, as ComfyUI takes it: losses, pictures, a drawn curve, the LoRA."""

import json
import pathlib

import numpy as np
import torch
from PIL import Image, ImageDraw


class Losses:
    """Follows a run's metrics.jsonl while it grows. A resumed run cuts the file back: later lines win."""

    def __init__(self, folder):
        self._path = pathlib.Path(folder) / "metrics.jsonl"
        self._read = 0
        self.by_step, self.validation = {}, {}

    def update(self):
        """Reads what is new, whole lines only; True when there was any."""
        if not self._path.is_file():
            return False
        if self._path.stat().st_size < self._read:
            self._read = 0
            self.by_step, self.validation = {}, {}
        with open(self._path, "rb") as file:
            file.seek(self._read)
            new = file.read()
        new = new[: new.rfind(b"\n") + 1]
        self._read += len(new)
        for line in new.splitlines():
            entry = json.loads(line)
            if entry.get("val_loss") is not None:
                self.validation[entry["step"]] = entry["val_loss"]
            if entry.get("loss") is not None:
                self.by_step[entry["step"]] = entry["loss"]
        return bool(new)

    def last_step(self):
        return max(self.by_step, default=0)


def read_losses(folder):
    """The Losses of a run as its file has them now."""
    losses = Losses(folder)
    losses.update()
    return losses


def smoothed(values, weight=0.05):
    """Exponential mean, corrected for its start."""
    mean, total, result = 0.0, 0.0, []
    for value in values:
        mean += weight * (value - mean)
        total += weight * (1 - total)
        result.append(mean / total)
    return result


def loss_curve(losses, size=(768, 384)):
    """A PIL picture: the loss of each step pale, its mean dark, validation as dots."""
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = 60, 20, size[0] - 20, size[1] - 40
    draw.rectangle((left, top, right, bottom), outline="#888888")
    steps = sorted(losses.by_step)
    if not steps:
        draw.text((left + 10, top + 10), "no steps yet", fill="black")
        return picture
    values = [losses.by_step[s] for s in steps]
    everything = values + list(losses.validation.values())
    low, high = min(everything), max(everything)
    span, width = (high - low) or 1.0, (steps[-1] - steps[0]) or 1

    def at(step, value):
        return (left + (right - left) * (step - steps[0]) / width, bottom - (bottom - top) * (value - low) / span)

    for series, colour, thickness in ((values, "#a8c4e0", 1), (smoothed(values), "#1f4e79", 3)):
        draw.line([at(*point) for point in zip(steps, series)], fill=colour, width=thickness)
    for step, value in losses.validation.items():
        x, y = at(step, value)
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill="#c0392b")
    draw.text((5, top), f"{high:.4f}", fill="black")
    draw.text((5, bottom - 10), f"{low:.4f}", fill="black")
    draw.text((left, bottom + 8), f"step {steps[0]}", fill="black")
    draw.text((right - 80, bottom + 8), f"step {steps[-1]}", fill="black")
    return picture


def sample_folders(folder):
    """The run's folders of samples in the order of their steps; each appears when it is whole."""
    return sorted(p for p in (pathlib.Path(folder) / "samples").glob("step-*") if p.is_dir())


def last_samples(folder):
    """Paths of the newest sample pictures; an empty list when there are none."""
    folders = sample_folders(folder)
    return sorted(folders[-1].glob("*.png")) if folders else []


def to_image(pictures):
    """PIL pictures of one size to ComfyUI's IMAGE: f32 (B, H, W, 3) from 0 to 1; none: one black point."""
    if not pictures:
        return torch.zeros(1, 1, 1, 3)
    return torch.from_numpy(np.stack([np.asarray(p.convert("RGB"), np.float32) / 255 for p in pictures]))


def toml(tables):
    """The text of a configuration. Texts are written as JSON, whose escapes are TOML's too."""
    lines = []
    for table, keys in tables.items():
        lines.append(f"[{table}]")
        lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"
