# SPDX-License-Identifier: Apache-2.0
"""Pictures whose subject is known: drawn things and emoji on photographs and on drawn grounds."""

import pathlib

import numpy as np
import skimage
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

GLYPHS = [*range(0x1F300, 0x1F650), *range(0x1F680, 0x1F700), *range(0x1F900, 0x1FAFF)]
PICTURES = {".jpg", ".jpeg", ".png", ".webp"}
# Pictures of packages that have a subject of their own, or nothing at all.
UNFIT = ("LadyBird", "Flower", "Garden", "TwoWings", "Aqua", "pixels", "vnc", "Elephants_", "logo", "Float", "Arc-")
TEXTURES = ("grass.png", "gravel.png")  # of scikit-image; its other photographs are kept for the proof


def photographs(folders):
    found = []
    for folder in folders:
        for path in sorted(pathlib.Path(folder).rglob("*")):
            if path.suffix not in PICTURES or any(word in path.name for word in UNFIT):
                continue
            picture = Image.open(path)
            picture.draft("RGB", (640, 640))
            picture = picture.convert("RGB")
            picture.thumbnail((640, 640), Image.Resampling.LANCZOS)
            found.append(picture)
    folder = pathlib.Path(skimage.__file__).parent / "data"
    return found + [Image.open(folder / name).convert("RGB") for name in TEXTURES]


def emoji(font_path):
    """Glyphs as RGBA cut-outs of about 100 pixels."""
    font = ImageFont.truetype(str(font_path), 109)
    found = []
    for code in GLYPHS:
        glyph = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(glyph).text((12, 12), chr(code), font=font, embedded_color=True)
        box = glyph.getchannel("A").point(lambda a: 255 * (a > 128)).getbbox()
        if box and (box[2] - box[0]) * (box[3] - box[1]) > 1500:
            found.append(glyph.crop(box))
    return found


def noise(rng, width, height, slope):
    """1/f^slope noise in [0, 1]."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = 1 / np.maximum(np.hypot(fx, fy), 1 / max(width, height)) ** slope
    spectrum = amplitude * np.exp(2j * np.pi * rng.random((height, width // 2 + 1)))
    field = np.fft.irfft2(spectrum, s=(height, width))
    return (field - field.min()) / max(np.ptp(field), 1e-9)


def colours(rng, count):
    """A palette: one hue with neighbours, or anything."""
    base = rng.random(3)
    return np.clip(base + rng.normal(0, rng.choice([0.08, 0.2, 0.5]), (count, 3)), 0, 1) * 255


def drawn_ground(rng, width, height):
    a, b, c = colours(rng, 3)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    kind = rng.integers(5)
    if kind == 0:
        field = noise(rng, width, height, rng.uniform(0.8, 2.2))
    elif kind == 1:
        angle = rng.uniform(0, np.pi)
        wave = np.sin(2 * np.pi * rng.uniform(1, 14) * (x * np.cos(angle) + y * np.sin(angle)))
        field = 0.5 + 0.5 * (np.sign(wave) if rng.random() < 0.5 else wave)
    elif kind == 2:
        step = rng.uniform(0.04, 0.25)
        field = ((x // step + y // step) % 2) * 0.6 + 0.4 * noise(rng, width, height, 1.5)
    elif kind == 3:
        field = np.clip(x * rng.normal() + y * rng.normal() + rng.random(), 0, 1)
    else:  # a horizon
        edge = rng.uniform(0.2, 0.8) * height / max(width, height)
        edge = edge + 0.1 * (noise(rng, width, 1, 1.5)[0] - 0.5)
        field = np.where(y > edge[None], 0.6 + 0.4 * noise(rng, width, height, 1.0), 0.3 * y)
    ground = a + (b - a) * field[..., None]
    ground = ground + (c - a) * (noise(rng, width, height, 1.6)[..., None] - 0.5) * rng.uniform(0, 0.8)
    ground = ground + rng.normal(0, rng.uniform(0, 12), (height, width, 1))
    return Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))


def cut(rng, photo, width, height, least=0.25):
    """A random part of a photograph."""
    part = rng.uniform(least, 1)
    w = max(8, int(min(photo.width, photo.height * width / height) * part))
    h = max(8, int(w * height / width))
    x, y = rng.integers(0, max(1, photo.width - w)), rng.integers(0, max(1, photo.height - h))
    return photo.resize((width, height), Image.Resampling.BILINEAR, (x, y, x + w, y + h))


def jitter(rng, picture, strength=1.0):
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = enhance(picture).enhance(float(np.exp(rng.normal(0, 0.3 * strength))))
    if rng.random() < 0.35 * strength:
        bands = picture.split()
        order = rng.permutation(3)
        picture = Image.merge(picture.mode, [*(bands[i] for i in order), *bands[3:]])
    return picture


class Maker:
    def __init__(self, photos, glyphs):
        self.photos, self.glyphs = photos, glyphs

    def ground(self, rng, width, height):
        if rng.random() < 0.4:
            ground = drawn_ground(rng, width, height)
        else:
            ground = cut(rng, self.photos[rng.integers(len(self.photos))], width, height)
            if rng.random() < 0.2:  # two photographs with an edge between
                other = cut(rng, self.photos[rng.integers(len(self.photos))], width, height)
                ground.paste(other, (int(width * rng.random()), 0) if rng.random() < 0.5
                             else (0, int(height * rng.random())))  # fmt: skip
        if rng.random() < 0.5:
            ground = ground.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        ground = jitter(rng, ground)
        if rng.random() < 0.35:
            ground = ground.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 4)))
        return ground

    def surface(self, rng, size):
        kind = rng.random()
        if kind < 0.35:
            return np.asarray(jitter(rng, cut(rng, self.photos[rng.integers(len(self.photos))], size, size, 0.1)), float)
        if kind < 0.65:
            return np.asarray(drawn_ground(rng, size, size), float)
        return np.broadcast_to(colours(rng, 1)[0], (size, size, 3)) + rng.normal(0, rng.uniform(0, 10), (size, size, 1))

    def drawn_thing(self, rng, size=88):
        """One to four shaded lumps, some with eyes, as an RGBA cut-out."""
        canvas, alpha = np.zeros((size, size, 3)), np.zeros((size, size))
        light = rng.normal(size=3)
        light /= np.linalg.norm(light)
        parts = rng.integers(1, 5)
        for part in range(parts):
            y, x = np.mgrid[0:size, 0:size] / (size / 2) - 1
            reach = rng.uniform(0.35, 0.6) if parts > 1 else 0.85
            if parts > 1:
                x, y = x - rng.uniform(-0.35, 0.35), y - rng.uniform(-0.35, 0.35)
            x = x * rng.uniform(1, 2)
            turn = rng.uniform(0, 2 * np.pi)
            x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
            theta, corner = np.arctan2(y, x), rng.uniform(1.2, 6)
            radius = (np.abs(x) ** corner + np.abs(y) ** corner) ** (1 / corner) / reach
            for k in range(2, 7):
                radius = radius * (1 + rng.normal(0, 0.25 / k) * np.cos(k * theta + rng.uniform(0, 6.3)))
            inside = np.clip((1 - radius) * size / 4, 0, 1)
            z = np.sqrt(np.clip(1 - radius**2, 0, 1))
            shade = 1 - rng.uniform(0, 0.6) * (1 - np.clip(x * light[0] + y * light[1] + z * abs(light[2]), 0, 1))
            skin = self.surface(rng, size) * shade[..., None]
            canvas = canvas * (1 - inside[..., None]) + skin * inside[..., None]
            alpha = np.maximum(alpha, inside)
            if part == parts - 1 and rng.random() < 0.4:
                for side in (-1, 1):
                    far = np.hypot(x - side * reach * 0.35, y + reach * 0.2)
                    canvas[(far < reach * 0.22) & (inside > 0.9)] = 245
                    canvas[(far < reach * 0.12) & (inside > 0.9)] = 15
        thing = Image.fromarray(np.dstack([np.clip(canvas, 0, 255), alpha * 255]).astype(np.uint8), "RGBA")
        box = thing.getchannel("A").point(lambda a: 255 * (a > 128)).getbbox()
        return thing.crop(box) if box and min(box[2] - box[0], box[3] - box[1]) > 8 else self.glyph(rng)

    def glyph(self, rng):
        return self.glyphs[rng.integers(len(self.glyphs))]

    def thing(self, rng):
        thing = jitter(rng, self.glyph(rng) if rng.random() < 0.55 else self.drawn_thing(rng), 0.8)
        if rng.random() < 0.5:
            thing = thing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if rng.random() < 0.6:
            thing = thing.rotate(rng.normal(0, 40), Image.Resampling.BILINEAR, expand=True)
        return thing

    def clutter(self, rng, picture):
        """Things too small, too alike or too faint to be meant."""
        thing, kinds = self.thing(rng), rng.random() < 0.4
        for _ in range(rng.integers(1, 14)):
            if kinds:
                thing = self.thing(rng)
            size = max(3, int(min(picture.size) * rng.uniform(0.03, 0.11)))
            small = thing.resize((size, max(2, int(size * thing.height / thing.width))))
            mask = small.getchannel("A").point(lambda a, f=rng.uniform(0.4, 1): int(a * f))
            picture.paste(small.convert("RGB"), tuple(int(rng.integers(0, n)) for n in picture.size), mask)

    def composite(self, rng, width, height):
        """A picture (H, W, 3) of bytes and the mask (H, W) of its subject."""
        picture = self.ground(rng, width, height)
        if rng.random() < 0.35:
            self.clutter(rng, picture)
        mask = Image.new("L", (width, height))
        for _ in range(1 if rng.random() < 0.85 else 2):
            self.place(rng, picture, mask)
        if rng.random() < 0.2:
            picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
        picture = np.asarray(jitter(rng, picture, 0.4), float)
        picture = picture + rng.normal(0, rng.uniform(0, 10), picture.shape)
        return np.clip(picture, 0, 255).astype(np.uint8), np.asarray(mask)

    def place(self, rng, picture, mask):
        thing, (width, height) = self.thing(rng), picture.size
        size = min(width, height) * rng.uniform(0.22, 0.95)
        scale = size / max(thing.size)
        stretch = np.exp(rng.normal(0, 0.1))
        thing = thing.resize((max(4, int(thing.width * scale * stretch)), max(4, int(thing.height * scale))),
                             Image.Resampling.BILINEAR)  # fmt: skip
        x = int(rng.integers(0, max(1, width - thing.width + 1)))
        y = int(rng.integers(0, max(1, height - thing.height + 1)))
        alpha = thing.getchannel("A")
        if rng.random() < 0.5:
            alpha = alpha.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.2)))
        if rng.random() < 0.4:
            shadow = alpha.filter(ImageFilter.GaussianBlur(max(1, size * 0.05))).point(lambda a: int(a * 0.5))
            picture.paste((0, 0, 0), (x + int(size * 0.04), y + int(size * 0.06)), shadow)
        picture.paste(thing.convert("RGB"), (x, y), alpha)
        mask.paste(255, (x, y), alpha)
