# SPDX-License-Identifier: Apache-2.0
"""Pictures whose subject box is known: cut-outs of photographs and jointed toys on photographs.

Everything comes from scikit-image; none of it, and none of these ways to draw a thing, was in the
training of the saliency network (tools/train_saliency)."""

import pathlib

import numpy as np
import skimage
from PIL import Image, ImageDraw, ImageFilter

# Photographs, or parts of them (left, upper, right, lower as shares), without a subject of their own.
GROUNDS = [
    ("brick.png", (0, 0, 1, 1)), ("hubble_deep_field.jpg", (0, 0, 1, 1)), ("ihc.png", (0, 0, 1, 1)),
    ("moon.png", (0, 0.25, 1, 0.8)), ("rocket.jpg", (0, 0, 0.42, 0.75)), ("coffee.png", (0, 0.5, 0.3, 1)),
    ("motorcycle_left.png", (0, 0, 1, 0.35)), ("camera.png", (0.6, 0.68, 1, 1)), ("chelsea.png", (0, 0, 0.2, 1)),
    ("retina.jpg", (0.25, 0.3, 0.75, 0.7)), ("page.png", (0, 0, 1, 1)),
]  # fmt: skip
# Ellipses (the same shares) around things in photographs.
THINGS = [
    ("coffee.png", (0.18, 0.04, 0.82, 0.99)), ("chelsea.png", (0.22, 0, 0.85, 0.98)),
    ("astronaut.png", (0.28, 0, 0.58, 0.42)), ("color.png", (0.04, 0.04, 0.96, 0.96)),
    ("motorcycle_left.png", (0.16, 0.2, 0.92, 0.9)), ("coins.png", (0.02, 0.08, 0.17, 0.3)),
]  # fmt: skip


def photograph(name):
    return Image.open(pathlib.Path(skimage.__file__).parent / "data" / name).convert("RGB")


def part(name, shares):
    picture = photograph(name)
    w, h = picture.size
    return picture.crop((int(shares[0] * w), int(shares[1] * h), int(shares[2] * w), int(shares[3] * h)))


def ground(rng, width, height):
    name, shares = GROUNDS[rng.integers(len(GROUNDS))]
    picture = part(name, shares)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.ROTATE_90)
    scale = max(width / picture.width, height / picture.height)
    picture = picture.resize((round(picture.width * scale) + 1, round(picture.height * scale) + 1))
    picture = np.asarray(picture.crop((0, 0, width, height)), float)
    if name in ("brick.png", "moon.png", "camera.png", "page.png"):  # grey ones in a light of some colour
        picture = picture * rng.uniform(0.5, 1, 3)
    return Image.fromarray(picture.astype(np.uint8))


def cut_out(rng):
    """A thing from a photograph, as RGBA."""
    thing = part(*THINGS[rng.integers(len(THINGS))]).resize((400, 400))
    mask = Image.new("L", thing.size)
    ImageDraw.Draw(mask).ellipse((4, 4, 395, 395), fill=255)
    thing.putalpha(mask.filter(ImageFilter.GaussianBlur(2)))
    return thing


def toy(rng):
    """A jointed figure: body, head, limbs in two or three colours, eyes. As RGBA."""
    figure = Image.new("RGBA", (400, 400))
    draw = ImageDraw.Draw(figure)
    body, limb, dark = (tuple(int(v) for v in rng.integers(20, 256, 3)) for _ in range(3))
    top = int(rng.integers(120, 200))
    for side in (-1, 1):
        shoulder, hip = (200 + side * 70, top + 40), (200 + side * 45, 300)
        hand = (200 + side * int(rng.integers(120, 185)), int(rng.integers(60, 330)))
        draw.line([shoulder, hand], fill=limb, width=32)
        draw.ellipse((hand[0] - 22, hand[1] - 22, hand[0] + 22, hand[1] + 22), fill=dark)
        draw.line([hip, (200 + side * int(rng.integers(30, 100)), 385)], fill=limb, width=38)
    draw.rounded_rectangle((115, top, 285, 320), radius=int(rng.integers(8, 70)), fill=body)
    draw.rectangle((150, top + 50, 250, top + 90), fill=dark)
    draw.rounded_rectangle((140, top - 115, 260, top + 8), radius=int(rng.integers(8, 60)), fill=body)
    for x in (172, 228):
        draw.ellipse((x - 16, top - 75, x + 16, top - 43), fill=(250, 250, 250))
        draw.ellipse((x - 7, top - 66, x + 7, top - 52), fill=(10, 10, 10))
    grain = photograph("gravel.png" if rng.random() < 0.5 else "brick.png").resize((400, 400))
    worn = Image.blend(figure.convert("RGB"), grain, 0.2)
    worn.putalpha(figure.getchannel("A"))
    return worn.rotate(rng.uniform(-35, 35), Image.Resampling.BICUBIC, expand=True)


def compose(seed):
    """A picture of 3:2, 16:9 or 2:1, wide or tall, and the box (x, y, width, height) of its subject,
    which is anywhere in it and fits a square crop."""
    rng = np.random.default_rng(seed)
    short = 480
    long = int(short * [1.5, 16 / 9, 2][seed % 3])
    width, height = (long, short) if seed // 3 % 2 else (short, long)
    picture = ground(rng, width, height)
    thing = cut_out(rng) if rng.random() < 0.5 else toy(rng)
    thing = thing.crop(thing.getchannel("A").point(lambda a: 255 * (a > 128)).getbbox())
    scale = short * rng.uniform(0.3, 0.8) / max(thing.size)
    thing = thing.resize((round(thing.width * scale), round(thing.height * scale)), Image.Resampling.LANCZOS)
    x, y = int(rng.integers(0, width - thing.width + 1)), int(rng.integers(0, height - thing.height + 1))
    picture.paste(thing.convert("RGB"), (x, y), thing.getchannel("A"))
    return picture, (x, y, thing.width, thing.height)


def held(crop, box):
    """The share of `box` that lies in `crop`; both (x, y, width, height)."""
    across = min(crop[0] + crop[2], box[0] + box[2]) - max(crop[0], box[0])
    down = min(crop[1] + crop[3], box[1] + box[3]) - max(crop[1], box[1])
    return max(0, across) * max(0, down) / (box[2] * box[3])


def centre(width, height):
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side
