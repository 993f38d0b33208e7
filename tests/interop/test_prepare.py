# SPDX-License-Identifier: Apache-2.0
"""fluxlora prepare on pictures in many colours, against formulas in double precision, Pillow and lcms; and what a
person who edits its files gets."""

import io
import json
import pathlib
import subprocess

import numpy as np
import picture_files as files
import pytest
import skimage
from PIL import Image, ImageCms, ImageFilter, ImageOps
from programs import program

PHOTOS = pathlib.Path(skimage.__file__).parent / "data"
SIDE = 128
BACKGROUND = (0x33, 0x66, 0x99)
# Colorants of sRGB under D50: IEC 61966-2-1, adapted by Bradford's matrix.
SRGB_TO_XYZ = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]])  # fmt: skip


def srgb_curve(linear):
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def srgb_light(value):
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def by_formula(values, colorants, light):
    """sRGB (0 to 255) of values in [0, 1] by the profile's own definition; colours outside of sRGB are clipped."""
    xyz = light(values) @ np.array(colorants)
    return 255 * srgb_curve(xyz @ np.linalg.inv(SRGB_TO_XYZ).T)


def adobe(values):
    return by_formula(values, files.ADOBE_RGB["colorants"], lambda v: v ** (563 / 256))


def p3(values):
    return by_formula(values, files.DISPLAY_P3["colorants"], srgb_light)


def by_lcms(image, profile):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    return ImageCms.profileToProfile(
        image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), srgb, outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION)  # fmt: skip


@pytest.fixture
def photos(tmp_path):
    """A folder of one photograph in many colours, and by file what sRGB it should become."""
    folder = tmp_path / "photos"
    folder.mkdir()
    image = Image.open(PHOTOS / "astronaut.png").convert("RGB").crop((150, 20, 150 + SIDE, 20 + SIDE))
    image.info.clear()
    pixels = np.asarray(image)
    random = np.random.default_rng(0)
    fine = np.clip(pixels.astype(int) * 257 + random.integers(-128, 129, pixels.shape), 0, 65535).astype(np.uint16)
    adobe_profile, p3_profile = (files.rgb_profile(**p) for p in (files.ADOBE_RGB, files.DISPLAY_P3))
    expected = {}

    def add(name, saved, wanted, **options):
        saved.save(folder / name, **options)
        expected[name] = wanted

    add("none.png", image, pixels)
    add("adobe.png", image, adobe(pixels / 255), icc_profile=adobe_profile)
    add("adobe.tif", image, adobe(pixels / 255), icc_profile=adobe_profile)
    add("p3.png", image, p3(pixels / 255), icc_profile=p3_profile)
    add("p3.webp", image, p3(pixels / 255), icc_profile=p3_profile, lossless=True)
    files.write_png16(folder / "bits16.png", fine)
    expected["bits16.png"] = fine / 257
    files.write_png16(folder / "bits16_adobe.png", fine, adobe_profile)
    expected["bits16_adobe.png"] = adobe(fine / 65535)
    grey = image.convert("L")
    add("grey.png", grey, np.repeat(np.asarray(grey)[..., None], 3, 2))
    grey_profile = files.grey_profile(files.GREY_GAMMA)
    add("grey_linear.png", grey, by_lcms(grey, grey_profile), icc_profile=grey_profile)
    inks, ink_profile = image.convert("CMYK"), files.cmyk_profile()
    add("inks.tif", inks, by_lcms(inks, ink_profile), icc_profile=ink_profile)
    palette = image.quantize(64)
    add("palette.png", palette, palette.convert("RGB"))
    clear = image.copy()
    ramp = np.tile(np.linspace(0, 255, SIDE).astype(np.uint8), (SIDE, 1))
    clear.putalpha(Image.fromarray(ramp))
    share = ramp[..., None] / 255
    add("alpha.png", clear, pixels * share + np.array(BACKGROUND) * (1 - share))
    turned = Image.Exif()
    turned[0x0112] = 6
    add("turned.png", image, ImageOps.exif_transpose(image.rotate(-90)), exif=turned)
    return folder, expected


def test_colours_come_out_as_srgb(fluxlora, photos, tmp_path):
    folder, expected = photos
    report = json.loads(fluxlora("prepare", folder, "--output", tmp_path / "out", "--resolution", SIDE,
                                 "--background", "336699", "--json"))  # fmt: skip
    assert {p["file"] for p in report["pictures"]} == set(expected)
    unmanaged = np.asarray(Image.open(folder / "none.png"), float)
    for picture in report["pictures"]:
        result = Image.open(tmp_path / "out" / picture["written"])
        assert result.mode == "RGB" and result.size == (SIDE, SIDE)
        wanted = np.asarray(expected[picture["file"]], float)
        difference = np.abs(np.asarray(result, float) - wanted)
        # Two steps; lcms sends 16 bits with a profile through a table of colours, which is 3 off in 1 of 2,000.
        table = picture["file"] == "bits16_adobe.png"
        assert np.mean(difference > 2) <= (0.0005 if table else 0), picture["file"]
        assert difference.max() <= (3 if table else 2), (picture["file"], difference.max())
        if picture["file"].startswith(("adobe", "p3")):
            assert np.abs(wanted - unmanaged).max() > 20  # else this would not show whether the profile is used


def test_a_crop_is_lanczos_of_the_box(fluxlora, tmp_path):
    """Against Pillow's Lanczos in the same box; edges of the filter's window differ by a step or two."""
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    image = Image.open(PHOTOS / "chelsea.png").convert("RGB")
    image.save(folder / "cat.png")
    command = ("prepare", folder, "--output", out, "--resolution", SIDE)
    fluxlora(*command)
    crops = json.loads((out / "crop.json").read_text())
    box = crops["pictures"]["cat.png"]["box"] = {"x": 90, "y": 17, "width": 260, "height": 260}
    (out / "crop.json").write_text(json.dumps(crops))
    fluxlora(*command)
    entry = json.loads((out / "crop.json").read_text())["pictures"]["cat.png"]
    assert entry["box"] == box and entry["found_by"] == "you"
    place = (90, 17, 350, 277)
    wanted = np.asarray(image.crop(place).resize((SIDE, SIDE), Image.LANCZOS), int)
    difference = np.abs(np.asarray(Image.open(out / "cat.png"), int) - wanted)
    assert difference.mean() < 0.5 and difference.max() <= 6


def test_a_picture_as_phones_write_it(fluxlora, tmp_path):
    """phone.heic: the landscape that a sensor gives, turned by HEIF's own box and by EXIF's orientation (which must not
    turn it again), in Display P3, HEVC with halved chroma. libheif wrote it from the pixels below. Where no decoder is
    installed, the person reads which package has it."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    (photos / "IMG_0412.HEIC").write_bytes((pathlib.Path(__file__).parent / "phone.heic").read_bytes())
    done = subprocess.run([program("fluxlora"), "prepare", photos, "--output", out, "--resolution", str(SIDE)],
                          capture_output=True, text=True)  # fmt: skip
    if done.returncode != 0:
        assert done.returncode == 2 and "IMG_0412.HEIC: is damaged, or libheif has no decoder" in done.stderr
        assert "libheif-plugin-libde265" in done.stderr
        return
    image = Image.open(PHOTOS / "astronaut.png").convert("RGB").crop((150, 0, 278, 192))
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(2)))
    top = json.loads((out / "crop.json").read_text())["pictures"]["IMG_0412.HEIC"]["box"]["y"]
    pixels = pixels[top : top + SIDE]
    wanted, result = p3(pixels / 255), np.asarray(Image.open(out / "IMG_0412.png"), float)
    assert np.abs(result - wanted).mean() < 1.5  # what the codec leaves; 3.4 where the profile is not used
    assert np.abs(result - wanted).max() < 12
