# SPDX-License-Identifier: Apache-2.0
"""Draws a workflow that ComfyUI's editor saved, for docs/comfyui.md: draw_workflow.py WORKFLOW.json OUTPUT.png"""

import json
import sys

from PIL import Image, ImageDraw, ImageFont

MARGIN, TITLE, ROW = 20, 22, 18
COLOURS = {"MODEL": "#b39ddb", "CLIP": "#ffd500", "CONDITIONING": "#ffa931", "LATENT": "#ff9cf9", "VAE": "#ff6e6e",
           "IMAGE": "#64b5f6"}  # fmt: skip


def colour(kind):
    return COLOURS.get(kind, "#7fc97f" if kind.startswith("FLUXLORA") else "#bbbbbb")


def draw(workflow):
    font = ImageFont.load_default(13)
    boxes = [(*n["pos"], *n["size"]) for n in workflow["nodes"]] + [tuple(g["bounding"]) for g in workflow["groups"]]
    size = tuple(max(b[i] + b[i + 2] for b in boxes) + MARGIN for i in (0, 1))
    picture = Image.new("RGB", size, "#222222")
    pen = ImageDraw.Draw(picture)
    for group in workflow["groups"]:
        x, y, width, height = group["bounding"]
        pen.rectangle((x, y, x + width, y + height), outline=group["color"], width=2)
        pen.text((x + 8, y + 4), group["title"], fill=group["color"], font=font)
    nodes = {n["id"]: n for n in workflow["nodes"]}
    for node in nodes.values():
        draw_node(pen, node, font)
    for _, start, out, end, into, kind in workflow["links"]:
        a, b = nodes[start], nodes[end]
        ends = ((a["pos"][0] + a["size"][0], port(a, out)), (b["pos"][0], port(b, into)))
        pen.line(curve(*ends), fill=colour(kind), width=3)
    return picture


def port(node, row):
    return node["pos"][1] + TITLE + ROW * row + ROW // 2


def curve(a, b, pieces=24):
    """Points of a cubic Bezier curve that leaves and enters level, as the editor draws its links."""
    reach = max(40, abs(b[0] - a[0]) / 2)
    corners = (a, (a[0] + reach, a[1]), (b[0] - reach, b[1]), b)
    points = []
    for i in range(pieces + 1):
        t = i / pieces
        weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
        points.append(tuple(sum(w * c[k] for w, c in zip(weights, corners)) for k in (0, 1)))
    return points


def draw_node(pen, node, font):
    (x, y), (width, height) = node["pos"], node["size"]
    own = node["type"].startswith("Fluxlora")
    pen.rounded_rectangle((x, y, x + width, y + height), 6, fill="#353535", outline="#7fc97f" if own else "#555555")
    pen.text((x + 10, y + 4), node["type"], fill="white", font=font)
    for side, ports in ((0, node["inputs"]), (1, node["outputs"])):
        for row, entry in enumerate(ports):
            at = port(node, row)
            pen.ellipse((x + side * width - 4, at - 4, x + side * width + 4, at + 4), fill=colour(entry["type"]))
            pen.text((x + (width - 12 if side else 12), at), entry["name"], "#cccccc", font, anchor="rm" if side else "lm")
    top = y + TITLE + ROW * max(len(node["inputs"]), len(node["outputs"])) + 6
    for value in node["widgets_values"]:
        for line in str(value).splitlines():
            if top + ROW > y + height:
                return
            pen.text((x + 16, top), line, fill="#9fb4c7", font=font)
            top += ROW


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        draw(json.load(file)).quantize(64).save(sys.argv[2], optimize=True)
