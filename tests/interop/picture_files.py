# SPDX-License-Identifier: Apache-2.0
"""Files that Pillow cannot write: ICC profiles (ICC.1:2010) and PNG files of 16 bits (ISO 15948)."""

import struct
import zlib

# Colorants under D50 of the primaries: Adobe RGB (1998) specification, 4.3.4; Display P3 from its primaries.
ADOBE_RGB = dict(
    colorants=((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)),
    curve=b"curv" + bytes(4) + struct.pack(">IH", 1, 563) + bytes(2),  # gamma 563/256
)
DISPLAY_P3 = dict(
    colorants=((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407)),
    curve=b"para" + bytes(4) + struct.pack(">HH", 3, 0)
    + struct.pack(">5i", *(round(v * 65536) for v in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))),
)  # fmt: skip
GREY_GAMMA = b"curv" + bytes(4) + struct.pack(">IH", 1, 256) + bytes(2)  # linear light


def _xyz(x, y, z):
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(v * 65536) for v in (x, y, z)))


def _text(text):
    words = text.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(words), 28) + words


def _profile(space, connection, kind, tags):
    tags = {b"desc": _text("test"), b"cprt": _text("none"), b"wtpt": _xyz(0.9642, 1, 0.8249), **tags}
    offset, table, data = 132 + 12 * len(tags), b"", b""
    for name, body in tags.items():
        table += name + struct.pack(">II", offset + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    size = 132 + len(table) + len(data)
    header = struct.pack(">I4sI4s4s4s", size, b"none", 0x04200000, kind, space, connection)
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += struct.pack(">3i", 63190, 65536, 54061) + bytes(48)  # D50
    return header + struct.pack(">I", len(tags)) + table + data


def rgb_profile(colorants, curve):
    tags = {name: _xyz(*c) for name, c in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants)}
    tags |= {name: curve for name in (b"rTRC", b"gTRC", b"bTRC")}
    return _profile(b"RGB ", b"XYZ ", b"mntr", tags)


def grey_profile(curve):
    return _profile(b"GRAY", b"XYZ ", b"mntr", {b"kTRC": curve})


def cmyk_profile():
    """Inks at the corners of the cube, linear between them: unlike any formula that a reader might fall back to."""
    corners = b""
    for corner in range(16):
        c, m, y, k = (corner >> 3) & 1, (corner >> 2) & 1, (corner >> 1) & 1, corner & 1
        light = max(8, 255 - 90 * c - 100 * m - 15 * y - 200 * k)
        a = 128 - 35 * c + 70 * m - 5 * y if not k else 128
        b = 128 - 45 * c - 5 * m + 85 * y if not k else 128
        corners += bytes((light, max(0, a), min(255, max(0, b))))
    ramp = bytes(range(256))
    lut = b"mft1" + bytes(4) + bytes((4, 3, 2, 0))
    lut += struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536) + ramp * 4 + corners + ramp * 3
    return _profile(b"CMYK", b"Lab ", b"prtr", {b"A2B0": lut})


def write_png16(path, pixels, profile=None):
    """pixels (H, W, channels) of uint16: grey, grey and alpha, RGB or RGBA."""
    height, width, channels = pixels.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))]
    if profile:
        parts.append(chunk(b"iCCP", b"test\0\0" + zlib.compress(profile)))
    parts += [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"".join(parts))
