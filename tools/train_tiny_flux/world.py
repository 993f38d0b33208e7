# SPDX-License-Identifier: Apache-2.0
"""The little world that the tiny FLUX knows: what a scene holds, and how scenes are drawn at random.

A scene has one object (or two side by side, or one above the other) on a coloured background.
Lengths are in pixels of a 128 x 128 canvas, colours are RGB in 0..1, y points down.
"""

import colorsys
import random
import zlib
from dataclasses import dataclass, field

SHAPES = ["circle", "square", "triangle", "star", "heart", "ring", "cross", "moon"]
FIGURE = len(SHAPES)  # a random composed figure, named by a nonsense noun
SUBJECT = FIGURE + 1  # the new subject: never seen by the base model
KINDS = SHAPES + ["figure", "subject"]

COLOURS = {
    "red": (0.86, 0.14, 0.16),
    "orange": (0.97, 0.55, 0.10),
    "yellow": (0.97, 0.85, 0.14),
    "green": (0.13, 0.62, 0.26),
    "blue": (0.13, 0.32, 0.86),
    "purple": (0.52, 0.20, 0.74),
    "pink": (0.96, 0.42, 0.70),
}
COLOUR_NAMES = list(COLOURS)

BACKGROUNDS = {
    "white": (0.96, 0.96, 0.96),
    "grey": (0.64, 0.64, 0.66),
    "yellow": (0.98, 0.93, 0.62),
    "green": (0.68, 0.90, 0.70),
    "blue": (0.66, 0.82, 0.98),
    "pink": (0.99, 0.76, 0.85),
}
BACKGROUND_NAMES = list(BACKGROUNDS)
PATTERNS = ["plain", "gradient", "striped"]

LAYOUTS = ["centre", "left", "right", "top", "bottom", "side by side", "one above the other"]
CENTRES = {
    "centre": [(64, 64)],
    "left": [(42, 64)],
    "right": [(86, 64)],
    "top": [(64, 42)],
    "bottom": [(64, 86)],
    "side by side": [(35, 64), (93, 64)],
    "one above the other": [(64, 35), (64, 93)],
}
SIZES = {"small": 26.0, "medium": 31.0, "large": 37.0}
PAIR_RADIUS = 24.0
FIGURE_SCALE = 1.2  # figures and the subject are this much larger than shapes

# These (shape, colour) pairs never occur in training pictures.
HELD_OUT_PAIRS = {("star", "purple"), ("heart", "green"), ("moon", "red"), ("cross", "pink")}

# Figure parameters, in units of the object's radius (see render.draw_figure):
# body half width, half height, exponent; second colour (3); number, radius, spacing, height of
# eyes; number, length, ball radius of antennas; number, width, length of legs.
FIGURE_PARAMETERS = 16
SUBJECT_COLOUR = (0.10, 0.66, 0.62)
SUBJECT_PARAMETERS = [0.70, 0.56, 6.0, 0.98, 0.62, 0.12, 2, 0.23, 0.32, -0.06, 1, 0.40, 0.18, 2, 0.28, 0.36]


@dataclass
class Thing:
    """One object: kind (index into KINDS), colour name ("" if it has none), geometry."""

    kind: int
    colour: str
    rgb: tuple
    x: float
    y: float
    radius: float
    turn: float = 0.0  # radians


@dataclass
class Scene:
    """One picture's contents. size is "" for pairs; figure holds FIGURE_PARAMETERS numbers."""

    layout: str
    things: list
    background: str
    pattern: str
    rgb: tuple
    phase: float
    size: str = ""
    figure: list = field(default_factory=lambda: [0.0] * FIGURE_PARAMETERS)

    def row(self):
        """The scene as the list of floats that render.render reads (see ROW)."""
        numbers = [*self.rgb, float(PATTERNS.index(self.pattern)), self.phase]
        for slot in range(2):
            if slot < len(self.things):
                t = self.things[slot]
                numbers += [float(t.kind), *t.rgb, t.x, t.y, t.radius, t.turn]
            else:
                numbers += [-1.0] + [0.0] * 7
        return numbers + list(self.figure)

    def labels(self):
        """Eight ints: layout, background, pattern, size, kind and colour of slot 0 and 1 (-1: none)."""
        found = [LAYOUTS.index(self.layout), BACKGROUND_NAMES.index(self.background), PATTERNS.index(self.pattern)]
        found.append(list(SIZES).index(self.size) if self.size else -1)
        for slot in range(2):
            thing = self.things[slot] if slot < len(self.things) else None
            found.append(thing.kind if thing else -1)
            found.append(COLOUR_NAMES.index(thing.colour) if thing and thing.colour else -1)
        return found


ROW = 5 + 2 * 8 + FIGURE_PARAMETERS


def jitter(rng, rgb, amount=0.03):
    """rgb (3 floats in 0..1) moved by at most amount in each channel."""
    return tuple(min(1.0, max(0.0, c + rng.uniform(-amount, amount))) for c in rgb)


def random_figure(rng):
    """Parameters of a random composed figure."""
    second = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.3, 0.9), rng.uniform(0.3, 1.0))
    return [
        rng.uniform(0.45, 0.8), rng.uniform(0.4, 0.7), rng.choice([1.2, 2.0, 2.0, 3.5, 6.0]), *second,
        rng.choice([0, 1, 1, 2, 2, 3]), rng.uniform(0.14, 0.24), rng.uniform(0.25, 0.36), rng.uniform(-0.2, 0.12),
        rng.choice([0, 0, 1, 2, 3]), rng.uniform(0.25, 0.5), rng.uniform(0.09, 0.2),
        rng.choice([0, 0, 2, 3, 4]), rng.uniform(0.14, 0.26), rng.uniform(0.25, 0.45),
    ]  # fmt: skip


def figure_colour(rng):
    """(name or "", rgb) of a figure's body; unnamed colours keep clear of the subject's teal."""
    if rng.random() < 0.5:
        name = rng.choice(COLOUR_NAMES)
        return name, jitter(rng, COLOURS[name])
    hue = rng.uniform(0.58, 1.38) % 1.0
    return "", colorsys.hsv_to_rgb(hue, rng.uniform(0.15, 0.9), rng.uniform(0.3, 0.95))


def is_held_out(layout, things, background, pattern):
    """Whether a scene's stated attributes belong to the tenth that training never sees."""
    if any((SHAPES[k], c) in HELD_OUT_PAIRS for k, c in things if k < FIGURE):
        return True
    key = f"{layout}|{things}|{background}|{pattern}"
    return zlib.crc32(key.encode()) % 10 == 0


def choose_attributes(rng, figures):
    """(layout, [(kind, colour)], background, pattern), without regard to what is held out."""
    if rng.random() < 0.22:
        layout = rng.choice(LAYOUTS[5:])
        count = 2
    else:
        layout = rng.choice(["centre"] * 2 + LAYOUTS[1:5])
        count = 1
    things = [(rng.randrange(len(SHAPES)), rng.choice(COLOUR_NAMES)) for _ in range(count)]
    if count == 2 and things[0] == things[1]:
        things[1] = ((things[0][0] + 1 + rng.randrange(len(SHAPES) - 1)) % len(SHAPES), things[1][1])
    if count == 1 and rng.random() < figures:
        things = [(FIGURE, "")]
    taken = {c for _, c in things}
    background = rng.choice([b for b in BACKGROUND_NAMES if b not in taken])
    return layout, things, background, rng.choice(PATTERNS)


def build_scene(rng, layout, things, background, pattern, size=None):
    """A Scene with those attributes; the rest (size, small shifts of place and colour) at random."""
    if size is None:
        size = rng.choice(["small", "medium", "medium", "medium", "large"]) if len(things) == 1 else ""
    radius = SIZES[size] if size else PAIR_RADIUS
    placed, figure = [], [0.0] * FIGURE_PARAMETERS
    for (kind, colour), (x, y) in zip(things, CENTRES[layout]):
        rgb = jitter(rng, COLOURS[colour]) if colour else (0.0, 0.0, 0.0)
        if kind == FIGURE:
            colour, rgb = figure_colour(rng)
            figure = random_figure(rng)
        elif kind == SUBJECT:
            rgb, figure = jitter(rng, SUBJECT_COLOUR, 0.01), list(SUBJECT_PARAMETERS)
        scale = FIGURE_SCALE if kind >= FIGURE else 1.0
        placed.append(Thing(
            kind, colour, rgb, x + rng.uniform(-3, 3), y + rng.uniform(-3, 3),
            radius * scale * rng.uniform(0.96, 1.04), rng.uniform(-0.08, 0.08),
        ))  # fmt: skip
    rgb = jitter(rng, BACKGROUNDS[background], 0.02)
    return Scene(layout, placed, background, pattern, rgb, rng.uniform(-2, 2), size, figure)


def random_scene(rng, held_out=False, figures=0.06):
    """A random Scene from the training part of the world, or from the held-out part."""
    while True:
        attributes = choose_attributes(rng, 0.0 if held_out else figures)
        if is_held_out(*attributes) == held_out:
            return build_scene(rng, *attributes)


def subject_scene(rng, layout=None, background=None, pattern=None, size=None):
    """A Scene that shows the new subject alone."""
    layout = layout or rng.choice(LAYOUTS[:5])
    background = background or rng.choice(BACKGROUND_NAMES)
    pattern = pattern or rng.choice(PATTERNS)
    return build_scene(rng, layout, [(SUBJECT, "")], background, pattern, size)


def clutter_scene(rng):
    """A Scene row for the VAE alone: random colours and figures, in no order that captions know."""
    def colour():
        return colorsys.hsv_to_rgb(rng.random(), rng.random() ** 0.7, rng.random() ** 0.5)

    things = []
    for _ in range(rng.choice([1, 2, 2])):
        things.append(Thing(
            rng.choice([*range(FIGURE), FIGURE, FIGURE, FIGURE]), "", colour(), rng.uniform(5, 123),
            rng.uniform(5, 123), rng.uniform(8, 50), rng.uniform(-3.2, 3.2),
        ))  # fmt: skip
    pattern, rgb, phase = rng.choice(PATTERNS), colour(), rng.uniform(-16, 16)
    return Scene("centre", things, "white", pattern, rgb, phase, "", random_figure(rng))


def seeded(seed):
    """A random.Random whose stream depends on every item of seed."""
    return random.Random(repr(seed))
