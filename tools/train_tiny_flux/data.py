# SPDX-License-Identifier: Apache-2.0
"""Makes training data: scenes, captions and ids on all cores, pictures and latents on the device."""

import multiprocessing

import numpy as np
import torch

import captions
import world
from flux_model import pack
from render import render
from tokens import encode_captions


def _scene_chunk(job):
    """(rows, labels, CLIP ids, T5 ids) of one chunk; job: (kind, count, seed, captions each, pipeline)."""
    kind, count, seed, each, pipeline = job
    rng = world.seeded(seed)
    writer = captions.CaptionWriter(rng, describe=0.6 if kind == "figures" else 0.0)
    scenes = [make_scene(kind, rng) for _ in range(count)]
    rows = np.array([s.row() for s in scenes], np.float32)
    labels = np.array([s.labels() for s in scenes], np.int8)
    if not each:
        return rows, labels, None, None
    clip, t5 = encode_captions(pipeline, [writer.write(s) for s in scenes for _ in range(each)])
    return rows, labels, clip.reshape(count, each, -1), t5.reshape(count, each, -1)


def make_scene(kind, rng):
    """kind "train": what captions describe; "figures": with more figures; "clutter": for the VAE;
    "judge": all, with the subject."""
    if kind == "clutter":
        return world.clutter_scene(rng)
    if kind == "judge":
        if rng.random() < 0.12:
            return world.subject_scene(rng)
        return world.build_scene(rng, *world.choose_attributes(rng, 0.12))
    return world.random_scene(rng, figures=0.2 if kind == "figures" else 0.06)


def make_scenes(kind, count, seed, each=0, pipeline=None, workers=1, chunk=2048):
    """Arrays as _scene_chunk gives them, of count scenes."""
    sizes = [min(chunk, count - at) for at in range(0, count, chunk)]
    jobs = [(kind, n, (seed, i), each, pipeline) for i, n in enumerate(sizes)]
    if workers > 1:
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            parts = pool.map(_scene_chunk, jobs)
    else:
        parts = [_scene_chunk(job) for job in jobs]
    return [None if p[0] is None else np.concatenate(p) for p in zip(*parts)]


def draw(rows, device, batch=512):
    """(pictures uint8 [N,3,128,128], object coverage of each 16 x 16 px token uint8 [N,64]) on device."""
    pictures = torch.empty(len(rows), 3, 128, 128, dtype=torch.uint8, device=device)
    cover = torch.empty(len(rows), 64, dtype=torch.uint8, device=device)
    rows = torch.from_numpy(rows)
    for at in range(0, len(rows), batch):
        image, alpha = render(rows[at : at + batch].to(device))
        pictures[at : at + batch] = (image * 255).round().byte()
        blocks = torch.nn.functional.max_pool2d(alpha[:, None], 16).flatten(1)
        cover[at : at + batch] = (blocks * 255).byte()
    return pictures, cover


def to_signed(pictures, dtype=torch.float32):
    """uint8 pictures to -1..1."""
    return pictures.to(dtype) / 127.5 - 1


@torch.no_grad()
def latents_of(vae, rows, scaling, shift, device, batch=512):
    """(packed, scaled posterior means bf16 [N,64,64], coverage uint8 [N,64]) of scene rows."""
    found = torch.empty(len(rows), 64, 64, dtype=torch.bfloat16, device=device)
    covers = torch.empty(len(rows), 64, dtype=torch.uint8, device=device)
    dtype = torch.bfloat16 if device != "cpu" else torch.float32
    for at in range(0, len(rows), batch):
        pictures, covers[at : at + batch] = draw(rows[at : at + batch], device)
        mean, _ = vae.encode(to_signed(pictures, dtype))
        found[at : at + batch] = pack((mean.float() - shift) * scaling).bfloat16()
    return found, covers
