# SPDX-License-Identifier: Apache-2.0
"""Templated captions of scenes: varied length, synonyms, words left out, nonsense words."""

from world import FIGURE, SHAPES, SUBJECT

SHAPE_WORDS = {
    "circle": ["circle", "circle", "disc"],
    "square": ["square", "square", "box"],
    "triangle": ["triangle"],
    "star": ["star"],
    "heart": ["heart"],
    "ring": ["ring", "ring", "hoop"],
    "cross": ["cross", "cross", "plus sign"],
    "moon": ["moon", "moon", "crescent"],
}
COLOUR_WORDS = {"purple": ["purple", "purple", "violet"], "grey": ["grey", "grey", "gray"]}
SIZE_WORDS = {
    "small": ["small", "small", "little", "tiny"],
    "medium": ["", "", "", "medium sized"],
    "large": ["large", "large", "big", "huge"],
}
PLACES = {
    "centre": ["", "", "in the middle", "in the centre", "at the center"],
    "left": ["on the left", "on the left", "on the left side", "at the left"],
    "right": ["on the right", "on the right", "on the right side", "at the right"],
    "top": ["at the top", "at the top", "on top", "in the upper part"],
    "bottom": ["at the bottom", "at the bottom", "near the bottom", "in the lower part"],
}
GROUNDS = {
    "plain": ["on a {c} background", "on a {c} background", "on a plain {c} background", "on plain {c}",
              "against a {c} backdrop", "with a {c} background"],
    "gradient": ["on a {c} gradient background", "on a gradient {c} background", "on a {c} gradient",
                 "with a {c} gradient background", "against a {c} gradient"],
    "striped": ["on a striped {c} background", "on a {c} striped background", "on {c} stripes",
                "with a striped {c} background", "against {c} stripes"],
}  # fmt: skip
LONG_GROUNDS = {
    "plain": ["the background is plain {c}", "everything behind is {c}", "the backdrop is {c} and has no pattern"],
    "gradient": ["the background is a {c} gradient", "behind is a smooth {c} gradient from pale to dark"],
    "striped": ["the background is striped in {c}", "behind are wide upright {c} stripes"],
}
OPENINGS = ["a picture of", "a drawing of", "a simple picture of", "an image of", "there is", "this shows",
            "a photo of", "a flat drawing that shows", "we can see"]  # fmt: skip
STYLES = ["in {w} style", "{w} style", "made by {w}", "{w} art"]

ONSETS = ["b", "bl", "br", "d", "dr", "f", "fl", "g", "gl", "gr", "h", "j", "k", "kl", "l", "m", "n", "p", "pl",
          "qu", "r", "s", "sk", "sn", "st", "t", "tr", "v", "w", "y", "z"]  # fmt: skip
VOWELS = ["a", "e", "i", "o", "u", "oo", "ee", "ai", "or", "ar"]
CODAS = ["", "b", "ck", "d", "ff", "g", "l", "m", "n", "p", "rb", "sk", "t", "x", "zz", "bot", "ket", "le", "ix"]


def nonsense(rng):
    """An invented word such as "snorbix"; "zorbot" itself never comes out."""
    while True:
        parts = [rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(rng.choice([1, 1, 2, 2, 3]))]
        word = "".join(parts) + rng.choice(CODAS)
        if len(word) >= 4 and "zorb" not in word:
            return word


def article(phrase):
    """phrase with "a" or "an" before it."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def colour_word(rng, colour):
    return rng.choice(COLOUR_WORDS.get(colour, [colour]))


NUMBERS = ["no", "one", "two", "three", "four"]


def plural(count, word):
    """E.g. "one eye", "no eyes"."""
    return f"{NUMBERS[int(count)]} {word}{'' if count == 1 else 's'}"


class CaptionWriter:
    """Writes captions.

    full: state every attribute (as held-out prompts do). describe: the share of figures whose parts
    are told ("a blonk with two eyes and three legs").
    """

    def __init__(self, rng, full=False, subject_word="zorbot", describe=0.0):
        self.rng, self.full, self.subject_word, self.describe = rng, full, subject_word, describe

    def parts(self, figure):
        """The parts of a figure in words; figure as in world.FIGURE_PARAMETERS."""
        said = [plural(figure[6], "eye"), plural(figure[10], "antenna"), plural(figure[13], "leg")]
        said = [s for s in said if self.rng.random() < 0.8] or said[:1]
        return "with " + (", ".join(said[:-1]) + " and " + said[-1] if len(said) > 1 else said[0])

    def keeps(self, probability):
        """Whether to state an attribute that is stated with that probability."""
        return self.full or self.rng.random() < probability

    def noun(self, scene, thing):
        """Size, colour and kind of one object, e.g. "small red star"."""
        rng, words = self.rng, []
        if scene.size and self.keeps(0.85 if scene.size != "medium" else 0.3):
            words.append(rng.choice(SIZE_WORDS[scene.size]))
        if rng.random() < 0.04 and not self.full:
            words.append(nonsense(rng))
        if thing.colour and self.keeps(0.95 if thing.kind < FIGURE else 0.7):
            words.append(colour_word(rng, thing.colour))
        if thing.kind < FIGURE:
            words.append(rng.choice(SHAPE_WORDS[SHAPES[thing.kind]]))
        else:
            words.append(self.subject_word if thing.kind == SUBJECT else nonsense(rng))
        if thing.kind == FIGURE and self.describe and rng.random() < self.describe:
            words[-1:-1] = [self.body(scene.figure)]
            words.append(self.parts(scene.figure))
        return " ".join(w for w in words if w)

    def body(self, figure):
        """A word for the outline of a figure's body."""
        return {1.2: "pointed", 2.0: "round", 3.5: "soft", 6.0: "square"}[figure[2]]

    def pair(self, scene):
        """Two objects and how they lie."""
        a, b = (article(self.noun(scene, t)) for t in scene.things)
        if scene.layout == "side by side":
            return self.rng.choice([
                f"{a} on the left and {b} on the right", f"{a} to the left of {b}", f"{b} to the right of {a}",
                f"{a} on the left, {b} on the right", f"{a} beside {b}",
            ])  # fmt: skip
        return self.rng.choice([
            f"{a} at the top and {b} at the bottom", f"{a} above {b}", f"{b} below {a}", f"{a} over {b}",
            f"{a} on top, {b} at the bottom",
        ])  # fmt: skip

    def ground(self, scene, long=False):
        """The background's phrase, or "" where it is left out."""
        if not self.keeps(0.94):
            return ""
        table = LONG_GROUNDS if long else GROUNDS
        return self.rng.choice(table[scene.pattern]).format(c=colour_word(self.rng, scene.background))

    def tags(self, scene):
        """A comma-separated list of tags."""
        parts = [self.noun(scene, t) for t in scene.things]
        if len(scene.things) == 1:
            parts.append(scene.layout)
        else:
            parts.append("left and right" if scene.layout == "side by side" else "top and bottom")
        pattern = "" if scene.pattern == "plain" else scene.pattern + " "
        if self.keeps(0.94):
            parts.append(f"{pattern}{colour_word(self.rng, scene.background)} background")
        return ", ".join(parts)

    def sentence(self, scene):
        """The scene in words, before style, capitals and full stop."""
        rng = self.rng
        if rng.random() < 0.08:
            return self.tags(scene)
        if len(scene.things) == 2:
            what, place = self.pair(scene), ""
        else:
            what = article(self.noun(scene, scene.things[0]))
            places = [p for p in PLACES[scene.layout] if p or not self.full]
            place = rng.choice(places) if self.keeps(0.95) else ""
        if rng.random() < 0.3:
            what = f"{rng.choice(OPENINGS)} {what}"
        form = rng.random()
        if form < 0.15:
            ground = self.ground(scene, long=True)
            said = " ".join(p for p in (what, place) if p)
            return f"{said}; {ground}" if ground else said
        ground = self.ground(scene)
        if form < 0.25 and place and ground:
            return f"{what} {ground}, {place}"
        joint = ", " if form > 0.85 else " "
        said = " ".join(p for p in (what, place) if p)
        return f"{said}{joint}{ground}" if ground else said

    def write(self, scene):
        """One caption of the scene."""
        rng = self.rng
        text = self.sentence(scene)
        if not self.full and rng.random() < 0.05:
            style = rng.choice(STYLES).format(w=nonsense(rng))
            text = f"{style}, {text}" if rng.random() < 0.5 else f"{text}, {style}"
        if rng.random() < 0.2:
            text = text[0].upper() + text[1:]
        if rng.random() < 0.2:
            text += "."
        return text
