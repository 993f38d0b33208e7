# SPDX-License-Identifier: Apache-2.0
"""Datasets of subjects that the built-in model has never seen, for the measurements of this folder.

    subjects = make_subject(folder, number, count)   # pictures with captions that hold TRIGGER
    python bench/tiny_subjects.py FOLDER --subject 3 --count 12

A subject is a random figure of tools/train_tiny_flux/world.py with a colour of its own. Drawing them needs PyTorch;
a folder that is there already needs nothing.
"""

import argparse
import colorsys
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tools/train_tiny_flux"))

TRIGGER = "vexlit"
PLACES = {"centre": "in the middle", "left": "on the left", "right": "on the right", "top": "at the top",
          "bottom": "at the bottom"}  # fmt: skip


def scenes(subject, count):
    """(scene, caption with [trigger]) of `count` pictures of this subject, each in another setting."""
    import world

    figure = world.seeded(f"bench subject {subject}")
    world.SUBJECT_PARAMETERS = world.random_figure(figure)
    world.SUBJECT_COLOUR = colorsys.hsv_to_rgb(figure.random(), figure.uniform(0.5, 0.9), figure.uniform(0.4, 0.8))
    rng = world.seeded(f"bench pictures {subject}")
    for i in range(count):
        layout = list(PLACES)[i % len(PLACES)]
        background, pattern = rng.choice(world.BACKGROUND_NAMES), rng.choice(world.PATTERNS)
        size = rng.choice(list(world.SIZES))
        words = "" if size == "medium" else size + " "
        caption = f"a {words}[trigger] {PLACES[layout]} on a {pattern} {background} background"
        yield world.subject_scene(rng, layout, background, pattern, size), caption


def make_subject(folder, subject, count):
    """Writes NN.png and NN.txt; nothing where the folder is complete already."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if len(list(folder.glob("*.png"))) == count:
        return folder
    import torch
    from PIL import Image
    from pictures import to_bytes
    from render import render

    for i, (scene, caption) in enumerate(scenes(subject, count)):
        picture, _ = render(torch.tensor([scene.row()]), 128)
        Image.fromarray(to_bytes(picture)[0]).save(folder / f"{i:02}.png")
        (folder / f"{i:02}.txt").write_text(caption + "\n", encoding="utf-8")
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--subject", type=int, default=0)
    parser.add_argument("--count", type=int, default=12)
    options = parser.parse_args()
    make_subject(options.folder, options.subject, options.count)


if __name__ == "__main__":
    main()
