# SPDX-License-Identifier: Apache-2.0
"""Picture files and grids."""

import pathlib

import numpy as np
import torch
from PIL import Image


def to_bytes(pictures):
    """uint8 [B,S,S,3] on the CPU of pictures [B,3,S,S] in 0..1."""
    return (pictures.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def save_grid(path, pictures, columns=8, gap=3):
    """Writes pictures [B,3,S,S] in 0..1 as one image, columns to a row."""
    tiles = to_bytes(pictures)
    size = tiles.shape[1] + gap
    rows = -(-len(tiles) // columns)
    canvas = np.full((rows * size, columns * size, 3), 30, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * size, i % columns * size
        canvas[y : y + size - gap, x : x + size - gap] = tile
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(canvas).save(path)


def read_picture(path, size=128):
    """[3,size,size] in 0..1 of a picture file, its centre square resized."""
    picture = Image.open(path).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255


def psnr(a, b):
    """Peak signal-to-noise ratio in dB of each pair of pictures [B,3,S,S] in 0..1."""
    return -10 * torch.log10((a - b).float().pow(2).mean(dim=(1, 2, 3)).clamp(min=1e-10))
