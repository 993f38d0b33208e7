# SPDX-License-Identifier: Apache-2.0
"""Writes the prompt lists: held_out_prompts.json, subject_prompts.json, other_prompts.json.

    python make_prompts.py --output .
"""

import argparse
import json
import pathlib

import captions
import world


def entry(writer, scene):
    return {"prompt": writer.write(scene), "labels": scene.labels()}


def unique(count, make):
    """count entries with different prompts."""
    found = {}
    while len(found) < count:
        item = make()
        found.setdefault(item["prompt"].lower().rstrip("."), item)
    return list(found.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    options = parser.parse_args()
    rng = world.seeded("prompts")
    writer = captions.CaptionWriter(rng, full=True)
    held = unique(200, lambda: entry(writer, world.random_scene(rng, held_out=True)))
    other = unique(20, lambda: entry(writer, world.random_scene(rng, figures=0.0)))
    places = world.LAYOUTS[:5] * 2
    subject = [entry(writer, world.subject_scene(rng, place)) for place in places]
    for name, items in (("held_out", held), ("subject", subject), ("other", other)):
        lines = ",\n".join(" " + json.dumps(item) for item in items)
        (options.output / f"{name}_prompts.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
