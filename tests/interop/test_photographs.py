# SPDX-License-Identifier: Apache-2.0
"""A whole run on real photographs of every kind that people have: what goes in is what a phone or a scanner gives."""

import json
import math
import pathlib

import numpy as np
import pytest
import skimage
from PIL import Image
from picture_files import write_png16
from safetensors.numpy import load_file

PHOTOS = pathlib.Path(skimage.__file__).parent / "data"
STEPS = 60
CONFIG = """
[model]
path = "tiny"
text_tokens = 64
[subject]
name = "photos"
trigger = "mytoken_photo"
[dataset]
path = "photos"
cache = "cache"
[train]
steps = {steps}
batch_size = 4
learning_rate = 3e-3
[sample]
every = 0
[output]
path = "{run}"
"""


@pytest.fixture
def photos(tmp_path):
    """Landscape, portrait, alpha, grey, 16 bit, turned by EXIF; some with a caption, some without."""
    folder = tmp_path / "photos"
    folder.mkdir()
    cat = Image.open(PHOTOS / "chelsea.png").convert("RGB")
    cat.save(folder / "landscape.jpg")
    cat.crop((100, 0, 290, 300)).save(folder / "portrait.webp")
    alpha = cat.copy()
    alpha.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, cat.width).astype(np.uint8), (cat.height, 1))))
    alpha.save(folder / "alpha.png")
    Image.open(PHOTOS / "astronaut.png").convert("L").save(folder / "grey.png")
    wide = np.asarray(Image.open(PHOTOS / "coffee.png").convert("RGB"), np.uint16) * 257
    write_png16(folder / "sixteen.png", wide)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.open(PHOTOS / "rocket.jpg").save(folder / "turned.jpg", exif=turned)
    for name in ("landscape", "turned", "grey"):
        (folder / f"{name}.txt").write_text(f"a photo of mytoken_photo, {name}\n")
    return folder


def test_a_run_on_photographs(fluxlora, photos, tmp_path):
    (tmp_path / "config.toml").write_text(CONFIG.format(steps=STEPS, run=tmp_path / "run"))
    fluxlora("train", tmp_path / "config.toml", "--device", "cpu")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == STEPS and all(map(math.isfinite, losses))
    # The little model has never seen a photograph: the adapter must learn some of what they have in common.
    assert np.mean(losses[-15:]) < 0.8 * np.mean(losses[:15]), (np.mean(losses[:15]), np.mean(losses[-15:]))
    lora = load_file(tmp_path / "run" / "photos.safetensors")
    changed = [name for name, value in lora.items() if name.endswith("lora_B.weight") and np.abs(value).max() > 0]
    assert len(changed) == 49 and all(np.isfinite(value).all() for value in lora.values())
