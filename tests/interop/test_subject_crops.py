# SPDX-License-Identifier: Apache-2.0
"""Crops to the subject, on pictures whose subject box is known.

    python test_subject_crops.py [COUNT [FIRST]]    the figures alone, of COUNT pictures (120) from seed FIRST (0)
"""

import subprocess
import sys

import subject_pictures as pictures
from programs import program

ENOUGH = 0.95  # of the box; and of the pictures


def crops(folder, count, first=0):
    """For each picture: its size, its subject's box, our crop, what found it."""
    made = [pictures.compose(seed) for seed in range(first, first + count)]
    files = [folder / f"{seed}.png" for seed in range(first, first + count)]
    for (picture, _), file in zip(made, files, strict=True):
        picture.save(file, compress_level=1)
    done = subprocess.run([program("crop_dump"), *files], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == count
    return [(picture.size, box, tuple(map(int, line[:4])), line[4])
            for (picture, box), line in zip(made, lines, strict=True)]  # fmt: skip


def share(found, crop_of):
    """The share of the pictures whose crop holds enough of the box."""
    return sum(pictures.held(crop_of(size, crop), box) >= ENOUGH for size, box, crop, _ in found) / len(found)


def ours(_, crop):
    return crop


def centre(size, _):
    return pictures.centre(*size)


def test_crops_hold_their_subject(tmp_path):
    found = crops(tmp_path, 60)
    assert share(found, ours) >= ENOUGH
    assert share(found, centre) < 0.5, "the pictures are no test: the centre would do"
    for (width, height), _, (x, y, w, h), found_by in found:
        assert found_by in ("face", "saliency", "attention")
        assert w == h == min(width, height) and 0 <= x <= width - w and 0 <= y <= height - h


if __name__ == "__main__":
    import pathlib
    import tempfile

    count, first = (int(word) for word in (sys.argv[1:] + ["120", "0"][len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as name:
        found = crops(pathlib.Path(name), count, first)
    print(f"{count} pictures; {ENOUGH:.0%} of the box or more: "
          f"ours {share(found, ours):.1%}, the centre {share(found, centre):.1%}")  # fmt: skip
    words = [word for *_, word in found]
    print(", ".join(f"{word} {words.count(word)}" for word in sorted(set(words))))
    print("lost:", [first + i for i, (_, box, crop, _) in enumerate(found) if pictures.held(crop, box) < ENOUGH])
