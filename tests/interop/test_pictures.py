# SPDX-License-Identifier: Apache-2.0
"""Pictures as fluxlora reads them, against Pillow and lcms (ImageCms), on the photographs of scikit-image."""

import io
import pathlib
import subprocess

import numpy as np
import picture_files as files
import pytest
import skimage
from PIL import Image, ImageCms, ImageOps, features
from programs import program

PHOTOS = pathlib.Path(skimage.__file__).parent / "data"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
ORIENTATION = 0x0112


@pytest.fixture(params=["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"])
def photo(request):
    image = Image.open(PHOTOS / request.param).convert("RGB")
    image.info.clear()  # Pillow would save the profile that rocket.jpg has into every copy
    return image


@pytest.fixture
def cat():
    return Image.open(PHOTOS / "chelsea.png").convert("RGB")


@pytest.fixture
def ours(tmp_path):
    """ours(path, size=None): our pixels (H, W, 3) as integers, and what the program said."""

    def read(path, size=None):
        out = tmp_path / "out.png"
        command = [program("picture_dump"), path, out, *map(str, size or ())]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        read.said = done.stdout
        image = Image.open(out)
        assert image.mode == "RGB"
        return np.asarray(image, int)

    return read


def close(a, b, mean, most):
    """Mean and largest difference of 8-bit values, and equal shapes."""
    b = np.asarray(b, int)
    assert a.shape == b.shape
    difference = np.abs(a - b)
    assert difference.mean() <= mean and difference.max() <= most, (difference.mean(), difference.max())


def save(image, path, **options):
    image.save(path, **options)
    return path


def to_srgb(image, profile):
    """What lcms makes of it as we ask for it: perceptual intent, black becomes black."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.profileToProfile(
        image, profile, SRGB, outputMode="RGB", flags=ImageCms.Flags.BLACKPOINTCOMPENSATION)  # fmt: skip


def from_srgb(image, profile):
    return ImageCms.profileToProfile(image, SRGB, ImageCms.ImageCmsProfile(io.BytesIO(profile)), outputMode="RGB")


def test_photographs_as_they_are(ours):
    """All of scikit-image's that Pillow reads. PNG and GIF are lossless; JPEG decoders may round differently by 1
    or 2 in the inverse transform and the upsampling of colour."""
    names = sorted(p.name for p in PHOTOS.iterdir() if p.suffix in (".png", ".jpg", ".gif"))
    assert len(names) > 20
    for name in names:
        image = Image.open(PHOTOS / name)
        white = Image.new("RGBA", image.size, "white")
        pixels = ours(PHOTOS / name)
        # page.png's profile has an intent that does not exist, which libpng refuses.
        if "icc_profile" in image.info and "colour profile cannot be used" not in ours.said:
            expected = to_srgb(image, image.info["icc_profile"])
        elif image.mode.startswith("I"):
            expected = np.repeat(np.round(np.asarray(image, float) / 257)[..., None], 3, axis=2)
        else:
            expected = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
        lossy = name.endswith(".jpg")
        close(pixels, expected, mean=0.5 if lossy else 0.1, most=4 if lossy else 1)


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
def test_orientation_is_exact(cat, ours, tmp_path, tag, ending):
    image = cat.crop((20, 30, 150, 120))
    exif = Image.Exif()
    exif[ORIENTATION] = tag
    lossless = {"lossless": True} if ending == "webp" else {}
    path = save(image, tmp_path / f"a.{ending}", exif=exif, **lossless)
    expected = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    assert expected.size == ((90, 130) if tag >= 5 else (130, 90))
    if ending == "jpg":
        close(ours(path), expected, mean=0.5, most=4)
    else:
        close(ours(path), expected, mean=0, most=0)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
@pytest.mark.parametrize("tag", [1, 3, 6, 7])
def test_avif(cat, ours, tmp_path, tag):
    image = cat.crop((20, 30, 150, 120))
    exif = Image.Exif()
    exif[ORIENTATION] = tag
    path = save(image, tmp_path / "a.avif", quality=100, subsampling="4:4:4", exif=exif)
    done = subprocess.run([program("picture_dump"), path, tmp_path / "x.png"], capture_output=True, text=True)
    if "no decoder" in done.stderr:
        pytest.skip("libheif has no decoder for AVIF here")
    # Both go through YUV of 8 bits and back, each with its own rounding.
    close(ours(path), ImageOps.exif_transpose(Image.open(path)).convert("RGB"), mean=0.5, most=4)


@pytest.mark.parametrize("profile", [files.ADOBE_RGB, files.DISPLAY_P3], ids=["adobe", "p3"])
@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
def test_wide_colours(photo, ours, tmp_path, profile, ending):
    profile = files.rgb_profile(**profile)
    wide = from_srgb(photo, profile)
    options = {"lossless": True} if ending == "webp" else {"quality": 95} if ending == "jpg" else {}
    path = save(wide, tmp_path / f"a.{ending}", icc_profile=profile, **options)
    expected = to_srgb(Image.open(path).convert("RGB"), profile)
    # The same library on both sides, in two versions: now and then a step of rounding.
    close(ours(path), expected, mean=0.2, most=5 if ending == "jpg" else 2)
    ignored = np.abs(np.asarray(wide, int) - np.asarray(expected, int)).mean()
    assert ignored > 0.5  # else this would not show whether the profile is used


def test_grey_profile(photo, ours, tmp_path):
    profile = files.grey_profile(files.GREY_GAMMA)
    grey = photo.convert("L")
    path = save(grey, tmp_path / "a.png", icc_profile=profile)
    converted = to_srgb(grey, profile)
    close(ours(path), converted, mean=0.2, most=2)
    assert np.abs(np.asarray(converted, int)[..., 0] - np.asarray(grey, int)).mean() > 10


@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_cmyk_with_a_profile(photo, ours, tmp_path, ending):
    profile = files.cmyk_profile()
    inks = photo.convert("CMYK")
    path = save(inks, tmp_path / f"a.{ending}", icc_profile=profile, **({"quality": 95} if ending == "jpg" else {}))
    close(ours(path), to_srgb(Image.open(path), profile), mean=0.2, most=5 if ending == "jpg" else 2)


def test_cmyk_without_a_profile(ours, tmp_path):
    """libvips takes a printer's profile of its own, so only the kind of colour is known."""
    inks = Image.new("CMYK", (4, 1))
    for x, ink in enumerate([(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255)]):
        inks.putpixel((x, 0), ink)
    white, cyan, red, black = ours(save(inks, tmp_path / "a.tif"))[0]
    assert white.min() > 245 and black.max() < 70
    assert cyan[0] < 100 < cyan[1] and red[0] > 150 > red[2]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit(cat, ours, tmp_path, channels):
    random = np.random.default_rng(channels)
    pixels = np.asarray(cat.resize((90, 70)), np.uint16)
    pixels = pixels * 257 - (pixels > 0) * random.integers(0, 128, pixels.shape).astype(np.uint16)
    alpha = random.integers(0, 65536, (70, 90, 1)).astype(np.uint16)
    colours = pixels[..., : 1 if channels < 3 else 3]
    stored = colours if channels % 2 else np.concatenate([colours, alpha], axis=2)
    files.write_png16(tmp_path / "a.png", stored)
    share = alpha / 65535 if channels % 2 == 0 else 1
    expected = (colours / 257) * share + 255 * (1 - share)
    expected = np.broadcast_to(np.round(expected), (70, 90, 3))
    # libvips drops the low byte of colours, then they are laid over: at most one step each.
    close(ours(tmp_path / "a.png"), expected, mean=0.3, most=2)


def test_16_bit_with_a_profile(photo, ours, tmp_path):
    profile = files.rgb_profile(**files.ADOBE_RGB)
    wide = from_srgb(photo, profile)
    files.write_png16(tmp_path / "a.png", np.asarray(wide, np.uint16) * 257, profile)
    # Pillow converts the 8 bits; the curve of dark colours is steep, so the finer input shows there.
    close(ours(tmp_path / "a.png"), to_srgb(wide, profile), mean=0.2, most=6)


@pytest.mark.parametrize("mode", ["P", "1", "L", "LA", "RGBA"])
@pytest.mark.parametrize("ending", ["png", "tif", "webp", "gif"])
def test_modes(cat, ours, tmp_path, mode, ending):
    if ending == "webp" and mode in ("P", "1") or ending == "gif" and mode in ("LA", "RGBA"):
        pytest.skip("no such file")
    image = cat.convert(mode)
    if mode in ("LA", "RGBA"):
        ramp = np.linspace(0, 255, cat.width).astype(np.uint8)
        image.putalpha(Image.fromarray(np.tile(ramp, (cat.height, 1))))
    lossless = {"lossless": True, "exact": True} if ending == "webp" else {}
    path = save(image, tmp_path / f"a.{ending}", **lossless)
    stored = Image.open(path).convert("RGBA")
    expected = Image.alpha_composite(Image.new("RGBA", stored.size, "white"), stored).convert("RGB")
    close(ours(path), expected, mean=0.1, most=1)


def test_palette_with_transparency(ours, tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 0, 255, 0, 255, 0])
    for x in range(3):
        image.putpixel((x, 0), x)
    path = save(image, tmp_path / "a.png", transparency=bytes([255, 0, 128]))
    close(ours(path), [[[255, 0, 0], [255, 255, 255], [127, 255, 127]]], mean=0, most=0)


@pytest.mark.parametrize("ending", ["gif", "webp", "tif", "png"])
def test_first_frame(cat, ours, tmp_path, ending):
    first, second = cat.crop((0, 0, 60, 40)).convert("P"), cat.crop((60, 60, 120, 100)).convert("P")
    if ending == "webp":
        first, second = first.convert("RGB"), second.convert("RGB")
    options = {"lossless": True} if ending == "webp" else {}
    path = save(first, tmp_path / f"a.{ending}", save_all=True, append_images=[second], **options)
    close(ours(path), Image.open(path).convert("RGB"), mean=0, most=0)
    # libvips does not know the animations of PNG, so there is nothing to warn of.
    assert ("has 2 frames, the first is used" in ours.said) == (ending != "png")


@pytest.mark.parametrize("size", [(128, 128), (96, 160), (256, 64), (200, 112)])
@pytest.mark.parametrize("crop", [None, (100, 0, 260, 300)], ids=["landscape", "portrait"])
def test_crop_and_reduction(photo, ours, tmp_path, size, crop):
    image = photo.crop(crop) if crop else photo
    path = save(image, tmp_path / "a.png")
    across = min(image.width, image.height * size[0] / size[1])
    box = (round(across), round(across * size[1] / size[0]))
    left, top = (image.width - box[0]) // 2, (image.height - box[1]) // 2
    expected = image.crop((left, top, left + box[0], top + box[1]))
    enlarged = box[0] < size[0] or box[1] < size[1]
    expected = expected.resize(size, Image.Resampling.BICUBIC if enlarged else Image.Resampling.LANCZOS)
    # The same filter; Pillow rounds to 8 bits between the two directions, which shows where a sharp edge overshoots
    # the range, and cuts the filter off at the edges, where libvips repeats the last pixel.
    close(ours(path, size), expected, mean=0.4, most=16)
