# SPDX-License-Identifier: Apache-2.0
"""Crops never cut a face: photographs of people (scikit-image's part of Labeled Faces in the Wild) at known places of
pictures whose ground and whose other things draw the eye.

    python test_faces.py [COUNT]    the figures alone, of COUNT pictures (100)
"""

import pathlib
import subprocess
import sys

import numpy as np
import skimage
import subject_pictures as pictures
from PIL import Image, ImageDraw, ImageFilter
from programs import program

FACES = np.load(pathlib.Path(skimage.__file__).parent / "data" / "lfw_subset.npy")[:100]  # 25 x 25 pixels, grey
SHORT = 480


def head(number, side):
    """A face with the mask of an oval, as RGBA: brows to chin are about two thirds of it."""
    grey = Image.fromarray((FACES[number] * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).ellipse((side // 20, 0, side - side // 20, side), fill=255)
    face = Image.merge("RGB", [grey.point(lambda v, s=s: int(v * s)) for s in (1, 0.85, 0.75)])
    face.putalpha(mask.filter(ImageFilter.GaussianBlur(side / 40)))
    return face


def compose(number):
    """A picture of 3:2, 16:9 or 2:1, wide or tall, with a toy and a face, and the box of the face."""
    rng = np.random.default_rng(number)
    long = int(SHORT * [1.5, 16 / 9, 2][number % 3])
    width, height = (long, SHORT) if number // 3 % 2 else (SHORT, long)
    picture = pictures.ground(rng, width, height)
    face = head(number % len(FACES), int(rng.integers(150, 260)))
    x, y = (int(rng.integers(0, room - face.width + 1)) for room in picture.size)
    toy = pictures.toy(rng).resize((160, 160))  # at the other end
    toy_x = (0 if 2 * x > width - face.width else width - 160) if width > height else (width - 160) // 2
    toy_y = (0 if 2 * y > height - face.height else height - 160) if height > width else (height - 160) // 2
    picture.paste(toy.convert("RGB"), (toy_x, toy_y), toy.getchannel("A"))
    picture.paste(face.convert("RGB"), (x, y), face.getchannel("A"))
    return picture, (x, y, face.width, face.height)


def crops(folder, count):
    """For each picture its size, its face's box, our crop and what found it."""
    made = [compose(number) for number in range(count)]
    files = [folder / f"{number}.png" for number in range(count)]
    for (picture, _), file in zip(made, files, strict=True):
        picture.save(file, compress_level=1)
    done = subprocess.run([program("crop_dump"), *files], capture_output=True, text=True, timeout=600, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    return [(picture.size, box, tuple(map(int, line[:4])), line[4])
            for (picture, box), line in zip(made, lines, strict=True)]  # fmt: skip


def held(found):
    return sum(pictures.held(crop, box) == 1 for _, box, crop, _ in found)


def test_no_face_is_cut(tmp_path):
    found = crops(tmp_path, 50)
    by_face = [one for one in found if one[3] == "face"]
    assert held(by_face) == len(by_face)
    assert len(by_face) >= 42, "of so blurred faces some are not seen, but not more"
    assert held(found) >= 48
    assert sum(pictures.held(pictures.centre(*size), box) == 1 for size, box, *_ in found) < 25, "the centre would do"


if __name__ == "__main__":
    import tempfile

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as name:
        found = crops(pathlib.Path(name), count)
    by_face = [one for one in found if one[3] == "face"]
    print(f"{count} pictures: {len(by_face)} by their face, {held(by_face)} of these hold all of it, "
          f"{held(found)} of all; the centre {sum(pictures.held(pictures.centre(*s), b) == 1 for s, b, *_ in found)}")
    print("lost:", [(i, word) for i, (_, box, crop, word) in enumerate(found) if pictures.held(crop, box) < 1])
