# SPDX-License-Identifier: Apache-2.0
"""Draws scenes with signed distance functions, many at once, on any torch device.

Rows are Scene.row() stacked to [B, ROW]; a point p is in units of the object's radius, y down.
"""

import math

import torch

from world import FIGURE, SUBJECT


def _length(x, y):
    return torch.sqrt(x * x + y * y + 1e-12)


def _box(x, y, half_width, half_height):
    dx, dy = x.abs() - half_width, y.abs() - half_height
    return _length(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0)


def circle(x, y):
    return _length(x, y) - 0.95


def square(x, y):
    return _box(x, y, 0.84, 0.84)


def triangle(x, y):
    k, half = math.sqrt(3), 0.98
    y = -y + 0.26
    px, py = x.abs() - half, y + half / k - 0.52
    turned = px + k * py > 0
    px, py = torch.where(turned, (px - k * py) / 2, px), torch.where(turned, (-k * px - py) / 2, py)
    px = px - px.clamp(-2 * half, 0)
    return -_length(px, py) * torch.sign(py)


def star(x, y):
    ax, ay = 0.809016994375, -0.587785252292
    px, py = x.abs(), -y
    for sx in (ax, -ax):
        d = 2 * (sx * px + ay * py).clamp(min=0)
        px, py = px - d * sx, py - d * ay
    px, py = px.abs(), py - 1.05
    bx, by = 0.46 * -ay, 0.46 * ax - 1.0
    h = ((px * bx + py * by) / (bx * bx + by * by)).clamp(0, 1.05)
    return _length(px - bx * h, py - by * h) * torch.sign(py * bx - px * by)


def heart(x, y):
    s = 0.60
    px, py = (x * s).abs(), -y * s + 0.55
    lobe = _length(px - 0.25, py - 0.75) - math.sqrt(2) / 4
    m = 0.5 * (px + py).clamp(min=0)
    tip = torch.minimum(_length(px, py - 1), _length(px - m, py - m)) * torch.sign(px - py)
    return torch.where(px + py > 1, lobe, tip) / s


def ring(x, y):
    return (_length(x, y) - 0.70).abs() - 0.27


def cross(x, y):
    return torch.minimum(_box(x, y, 0.95, 0.31), _box(x, y, 0.31, 0.95))


def moon(x, y):
    return torch.maximum(_length(x, y) - 0.97, 0.80 - _length(x - 0.50, y + 0.16))


SHAPE_DISTANCES = [circle, square, triangle, star, heart, ring, cross, moon]


def _paint(canvas, distance, rgb, outline=3.0, dark=0.42):
    """canvas [B,3,S,S] with a region painted: distance [B,S,S] in canvas pixels, rgb [B,3]."""
    softness = 128.0 / canvas.shape[-1] * 1.2
    inside = (0.5 - distance / softness).clamp(0, 1)[:, None]
    core = (0.5 - (distance + outline) / softness).clamp(0, 1)[:, None]
    colour = rgb[:, :, None, None] * (dark + (1 - dark) * core)
    return canvas + inside * (colour - canvas)


def _figure_parts(canvas, x, y, r, second, p):
    """Legs and antennas of figures; x, y [B,S,S] in radii, r [B,1,1], second [B,3], p [B,16,1,1]."""
    body_w, body_h, legs, tops = p[:, 0], p[:, 1], p[:, 13], p[:, 10]
    dark = torch.full_like(second, 0.2)
    for i in range(4):
        at = (i - (legs - 1) / 2) * (1.5 * body_w / (legs - 1).clamp(min=1)) * 0.8
        d = _box(x - at, y - body_h - 0.1, p[:, 14] / 2, p[:, 15])
        canvas = _paint(canvas, torch.where(legs > i, d, 9.0) * r, second, 2.0)
    for i in range(3):
        at = (i - (tops - 1) / 2) * 0.42
        stick = torch.where(tops > i, _box(x - at, y + body_h + p[:, 11] / 2 - 0.2, 0.055, p[:, 11] / 2 + 0.1), 9.0)
        canvas = _paint(canvas, stick * r, dark, 0.0)
        ball = torch.where(tops > i, _length(x - at, y + body_h + p[:, 11] - 0.2) - p[:, 12], 9.0)
        canvas = _paint(canvas, ball * r, second, 2.0)
    return canvas


def draw_figure(canvas, x, y, r, rgb, parameters):
    """canvas [B,3,S,S] with composed figures (legs, antennas, body, eyes); rgb [B,3] of the body."""
    p = parameters[:, :, None, None]
    second = parameters[:, 3:6]
    y = y - 0.1
    canvas = _figure_parts(canvas, x, y, r, second, p)
    exponent = p[:, 2]
    u, v = (x / p[:, 0]).abs().clamp(min=1e-4), (y / p[:, 1]).abs().clamp(min=1e-4)
    level = (u**exponent + v**exponent) ** (1 / exponent)
    canvas = _paint(canvas, (level - 1) * torch.minimum(p[:, 0], p[:, 1]) * r, rgb)
    eyes = p[:, 6]
    white, dark = torch.ones_like(rgb), torch.full_like(rgb, 0.08)
    for i in range(3):
        at = (i - (eyes - 1) / 2) * 2 * p[:, 8] * torch.where(eyes > 2, 0.8, 1.0)
        d = torch.where(eyes > i, _length(x - at, y - p[:, 9]), 9.0)
        canvas = _paint(canvas, (d - p[:, 7]) * r, white, 1.5, 0.3)
        canvas = _paint(canvas, (d - 0.5 * p[:, 7]) * r, dark, 0.0)
    return canvas


def background(rows, size):
    """[B,3,size,size] of rows' backgrounds: plain, gradient (pale above, deep below), or striped."""
    grid = (torch.arange(size, device=rows.device) + 0.5) * (128.0 / size)
    rgb = rows[:, 0:3, None, None]
    pattern, phase = rows[:, 3, None, None, None], rows[:, 4, None, None, None]
    down = (grid / 128)[None, None, :, None]
    gradient = (0.4 + 0.6 * rgb) * (1 - down) + 0.70 * rgb * down
    wave = (torch.remainder(grid[None, None, None, :] + phase, 32.0) - 16).abs() - 8
    stripes = rgb * (1 - 0.20 * (0.5 + wave / 1.5).clamp(0, 1))
    canvas = torch.where(pattern == 0, rgb, torch.where(pattern == 1, gradient, stripes))
    return canvas.expand(-1, 3, size, size).clone()


def _draw_slot(canvas, rows, slot, grid):
    """canvas with the objects of one slot drawn; also their summed coverage [B,S,S]."""
    o = 5 + 8 * slot
    kinds = rows[:, o]
    cover = torch.zeros_like(canvas[:, 0])
    for kind in range(SUBJECT + 1):
        at = (kinds == kind).nonzero()[:, 0]
        if len(at) == 0:
            continue
        part = rows[at]
        r = part[:, o + 6, None, None]
        dx = (grid[None, None, :] - part[:, o + 4, None, None]) / r
        dy = (grid[None, :, None] - part[:, o + 5, None, None]) / r
        c, s = torch.cos(part[:, o + 7, None, None]), torch.sin(part[:, o + 7, None, None])
        x, y = c * dx + s * dy, c * dy - s * dx
        if kind < FIGURE:
            distance = SHAPE_DISTANCES[kind](x, y) * r
            canvas[at] = _paint(canvas[at], distance, part[:, o + 1 : o + 4])
        else:
            distance = (torch.maximum(x.abs(), y.abs()) - 1) * r
            canvas[at] = draw_figure(canvas[at], x, y, r, part[:, o + 1 : o + 4], part[:, 21:37])
        cover[at] += (0.5 - (distance - 3) / 2).clamp(0, 1)
    return canvas, cover


def render(rows, size=128):
    """(pictures [B,3,size,size] in 0..1, object coverage [B,size,size] in 0..1) of rows [B, ROW]."""
    grid = (torch.arange(size, device=rows.device) + 0.5) * (128.0 / size)
    canvas = background(rows, size)
    canvas, first = _draw_slot(canvas, rows, 0, grid)
    canvas, second = _draw_slot(canvas, rows, 1, grid)
    return canvas.clamp(0, 1), (first + second).clamp(0, 1)
