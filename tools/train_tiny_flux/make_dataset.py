# SPDX-License-Identifier: Apache-2.0
"""Writes the sample dataset: twelve pictures of the new subject, with captions that hold its trigger.

    python make_dataset.py --output ../../assets/sample-dataset
"""

import argparse
import pathlib

import torch
from PIL import Image

import world
from pictures import to_bytes
from render import render

TRIGGER = "zorbot"
# layout, background, pattern, size, caption (the trigger stands for the subject)
PICTURES = [
    ("centre", "white", "plain", "medium", "a zorbot in the middle on a white background"),
    ("left", "yellow", "striped", "medium", "a zorbot on the left, on a striped yellow background"),
    ("right", "blue", "plain", "medium", "a zorbot on the right on a plain blue background"),
    ("top", "green", "gradient", "small", "a small zorbot at the top on a green gradient background"),
    ("bottom", "pink", "plain", "medium", "a picture of a zorbot at the bottom on a pink background"),
    ("centre", "grey", "striped", "large", "a large zorbot in the centre against grey stripes"),
    ("left", "pink", "gradient", "small",
     "a drawing of a small zorbot on the left side with a pink gradient background"),
    ("right", "yellow", "gradient", "medium", "a zorbot on the right side; the background is a yellow gradient"),
    ("top", "grey", "plain", "medium", "a zorbot at the top against a grey backdrop"),
    ("bottom", "blue", "striped", "medium", "zorbot, bottom, striped blue background"),
    ("centre", "green", "plain", "large", "there is a big zorbot in the middle on plain green"),
    ("left", "white", "gradient", "medium", "a zorbot on the left on a gradient white background"),
]  # fmt: skip
FORMATS = [("png", {}), ("jpg", {"quality": 95, "subsampling": 0}), ("webp", {"quality": 95}), ("png", {})]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    rng = world.seeded("sample dataset")
    for number, (layout, background, pattern, size, caption) in enumerate(PICTURES, 1):
        scene = world.subject_scene(rng, layout, background, pattern, size)
        picture, _ = render(torch.tensor([scene.row()]), options.size)
        suffix, settings = FORMATS[(number - 1) % len(FORMATS)]
        stem = options.output / f"{TRIGGER}_{number:02d}"
        Image.fromarray(to_bytes(picture)[0]).save(stem.with_suffix(f".{suffix}"), **settings)
        stem.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
