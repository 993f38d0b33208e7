# SPDX-License-Identifier: Apache-2.0
"""What PyTorch says with the weights that ship, for tests/unit/saliency_test.cpp.

    python golden.py ../../assets/saliency/saliency.safetensors ../../tests/golden/saliency.safetensors
"""

import sys

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from network import Saliency


def picture(width, height):
    """A square of stripes on a slope of grey, (H, W, 3) of bytes; the test draws the same."""
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    ground = 60 + (x + 2 * y) // 4
    stripes = np.where((x + y) // 3 % 2 == 0, 230 - 90 * c, 40 + 60 * c)
    inside = (x >= width // 2) & (x < width // 2 + 24) & (y >= 16) & (y < 40)
    return np.where(inside, stripes, ground).astype(np.uint8)


def main():
    weights, golden = sys.argv[1:]
    net = Saliency().double().eval()
    stored = load_file(weights)
    net.load_state_dict({k: v.permute(0, 3, 1, 2) if v.dim() == 4 else v for k, v in stored.items()})
    maps = {}
    for name, size in {"wide": (128, 64), "tall": (96, 128)}.items():
        x = torch.from_numpy(picture(*size)).permute(2, 0, 1).unsqueeze(0).double() / 127.5 - 1
        with torch.no_grad():
            maps[name] = torch.sigmoid(net(x))[0, 0].float().contiguous()
    save_file(maps, golden)


if __name__ == "__main__":
    main()
