# SPDX-License-Identifier: Apache-2.0
"""Captions and tags against the same models by ONNX Runtime and transformers, pictures by Pillow."""

import csv
import json
import os
import pathlib
import subprocess

import numpy as np
import pytest
from PIL import Image

import caption_models
from programs import program

openvino = pytest.importorskip("openvino")
onnxruntime = pytest.importorskip("onnxruntime")
RUNTIME = pathlib.Path(openvino.__file__).parent / "libs"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Photographs: square, landscape, portrait, smaller and larger than the models' inputs."""
    from skimage import data

    folder = tmp_path_factory.mktemp("pictures")
    arrays = {"astronaut": data.astronaut(), "chelsea": data.chelsea(), "coffee": data.coffee()[:, 150:400],
              "small": data.astronaut()[60:108, 200:240], "rocket": data.rocket()}  # fmt: skip
    for name, pixels in arrays.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return sorted(folder.glob("*.png"))


def describe(options, pictures):
    """What the program says of the pictures, and what it logs."""
    environment = dict(os.environ, FLUXLORA_OPENVINO=str(RUNTIME))
    done = subprocess.run([program("caption_dump"), json.dumps(options), *map(str, pictures)], capture_output=True,
                          text=True, env=environment, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1], done.stderr


@pytest.fixture(scope="module")
def wd14(tmp_path_factory):
    return caption_models.make_wd14(tmp_path_factory.mktemp("wd14"))


def wd14_probabilities(folder, picture):
    """The taggers' own preparation of a picture (white square, BICUBIC, BGR), through ONNX Runtime."""
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    size = session.get_inputs()[0].shape[1]
    image = Image.open(picture).convert("RGB")
    side = max(image.size)
    square = Image.new("RGB", (side, side), (255, 255, 255))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    if side != size:
        square = square.resize((size, size), Image.BICUBIC)
    pixels = np.asarray(square, np.float32)[None, :, :, ::-1]
    return session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(pixels)})[0][0]


def clear(probabilities, threshold, margin):
    """A threshold near `threshold` that no probability comes closer to than `margin`."""
    for offset in np.linspace(0, 0.2, 400):
        if np.abs(probabilities - threshold - offset).min() > margin:
            return threshold + offset
    raise AssertionError("the probabilities are too dense")


# Pillow rounds between its two passes and cuts its filter off at the border, libvips does neither; the random model is
# more sensitive to such pixels than a trained one. Thresholds stay away from all probabilities by MARGIN, and tags
# nearer to each other than NEAR may change places.
MARGIN, NEAR = 0.005, 0.02


def test_wd14_tags_are_those_of_the_reference(wd14, pictures):
    with open(wd14 / "selected_tags.csv", newline="") as file:
        tags = [(row["name"], int(row["category"])) for row in csv.DictReader(file)]
    sets = []
    for picture in pictures:
        p = wd14_probabilities(wd14, picture)
        general, character = clear(p, 0.35, MARGIN), clear(p, 0.5, MARGIN)
        blacklist = ["thing 7", "THING_8"]
        expected = {}
        for (name, category), probability in zip(tags, p, strict=True):
            limit = {0: general, 4: character}.get(category, 2)
            if probability > limit and name not in ("thing_7", "thing_8"):
                shown = name if name == "=_=" else name.replace("_", " ")
                expected[shown] = (category == 0, -float(probability))
        options = {"kind": "wd14", "model": str(wd14), "general": general, "character": character}
        (line,), _ = describe({**options, "blacklist": blacklist}, [picture])
        got = line.split(", ")
        assert sorted(got) == sorted(expected), picture
        for first, second in zip(got, got[1:]):  # the order, but for near ties
            (kind_a, a), (kind_b, b) = expected[first], expected[second]
            assert kind_a < kind_b or (kind_a == kind_b and a < b + NEAR), (first, second)
        sets.append(frozenset(got))
    assert len(set(sets)) == len(pictures), "the tags must depend on the picture"
    assert all(5 < len(s) < 65 for s in sets)


def test_wd14_says_which_files_do_not_fit(wd14, pictures, tmp_path):
    (tmp_path / "model.onnx").write_bytes((wd14 / "model.onnx").read_bytes())
    lines = (wd14 / "selected_tags.csv").read_text().splitlines()
    (tmp_path / "selected_tags.csv").write_text("\n".join(lines[:-3]) + "\n")
    done = subprocess.run([program("caption_dump"), json.dumps({"kind": "wd14", "model": str(tmp_path)}), pictures[0]],
                          capture_output=True, text=True, env=dict(os.environ, FLUXLORA_OPENVINO=str(RUNTIME)))  # fmt: skip
    assert done.returncode == 2
    assert "gives 74 probabilities, but selected_tags.csv has 71 tags" in done.stderr


@pytest.fixture(scope="module")
def florence2(tmp_path_factory):
    folder, model = caption_models.make_florence2(tmp_path_factory.mktemp("florence2"))
    return folder, model


def florence2_tokens(florence2, picture, question, beams, length):
    """The tokens of transformers' own generate() on the model that the ONNX files were made of."""
    import torch
    from transformers import BartTokenizer

    folder, model = florence2
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    generation = json.loads((folder / "generation_config.json").read_text())
    image = Image.open(picture).convert("RGB").resize((settings["size"]["width"],) * 2, Image.BICUBIC)
    pixels = np.asarray(image, np.float64) * settings["rescale_factor"]
    pixels = (pixels - settings["image_mean"]) / settings["image_std"]
    pixels = torch.tensor(pixels.transpose(2, 0, 1)[None].astype(np.float32))
    tokenizer = BartTokenizer.from_pretrained(folder)
    with torch.no_grad():
        places = model.get_image_features(pixels).pooler_output.shape[1]
        ids = torch.tensor([[model.config.image_token_id] * places + tokenizer(question).input_ids])
        generation.update(num_beams=beams, early_stopping=generation["early_stopping"] and beams > 1)
        out = model.generate(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids), do_sample=False,
                             max_new_tokens=length, **generation)[0].tolist()  # fmt: skip
    end = out.index(2, 1) + 1
    return out[:end], tokenizer.decode(out, skip_special_tokens=True)


def words(text):
    """Captions are one line: control characters, which a random model writes too, are spaces there."""
    return "".join(c if c.isprintable() else " " for c in text).split()


# The pictures have the model's size already: Pillow's way of resizing and ours differ by a few of 255, which would
# decide between the many tokens that a random model finds equally likely.
@pytest.mark.parametrize(
    "detail, question, beams, length",
    [
        ("short", "What does the image describe?", 1, 24),
        ("detailed", "Describe in detail what is shown in the image.", 0, 24),
        ("long", "Describe with a paragraph what is shown in the image.", 2, 7),
    ],
)
def test_florence2_tokens_are_those_of_the_reference(florence2, pictures, tmp_path, detail, question, beams, length):
    for picture in pictures:
        Image.open(picture).resize((64, 64)).save(tmp_path / picture.name)
    pictures = sorted(tmp_path.glob("*.png"))
    options = {"kind": "florence2", "model": str(florence2[0]), "detail": detail, "beams": beams, "max_tokens": length}
    lines, log = describe(options, pictures)
    tokens = [list(map(int, line.split()[1:])) for line in log.splitlines() if line.startswith("tokens ")]
    expected = [florence2_tokens(florence2, p, question, beams or 3, length) for p in pictures]
    assert tokens == [ids for ids, _ in expected]
    assert list(map(words, lines)) == [words(text) for _, text in expected]
    assert len(set(map(tuple, tokens))) > 2, "the words must depend on the picture"


def test_barts_tokenizer_is_that_of_the_reference(florence2):
    from transformers import BartTokenizer

    texts = ["What does the image describe?", "  two  spaces\n\nand lines \t", "it's we'll I'd they're 'tis 12.5%", "",
             "caf\u00e9 na\u00efve \U0001f63a\u200d\u2b1b \u6771\u4eac", "<s>a</s> <mask>b <pad>", "x\u00a0y \u2003 z", "a " * 30]  # fmt: skip
    given = "".join(f"{len(t.encode())}\n{t}" for t in texts)
    done = subprocess.run([program("tokenize_dump"), "bart", florence2[0], "0"], input=given.encode(), capture_output=True)
    assert done.returncode == 0, done.stderr
    got = [list(map(int, line.split())) for line in done.stdout.decode().split("\n")[:-1]]
    reference = BartTokenizer.from_pretrained(florence2[0])
    assert got == [reference(t).input_ids for t in texts]


def prepare(folder, out, *options):
    """fluxlora prepare as a person calls it; the words of its captions by file."""
    environment = dict(os.environ, FLUXLORA_OPENVINO=str(RUNTIME))
    command = [program("fluxlora"), "prepare", folder, "--output", out, "--resolution", "64", "--json", *options]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    told = {p["file"]: words(p["caption"]) for p in json.loads(done.stdout)["pictures"]}
    assert told == {name: words((out / name).with_suffix(".txt").read_text()) for name in told}
    return told


def test_prepare_describes_what_has_no_caption(wd14, florence2, pictures, tmp_path):
    """Both models through the command itself, on the crops; what has a caption keeps it, in whatever convention."""
    photos, out = tmp_path / "photos", tmp_path / "dataset"
    photos.mkdir()
    for picture in pictures:
        (photos / picture.name).write_bytes(picture.read_bytes())
    (photos / "coffee.txt").write_text("a cup of [trigger] on a table")
    (photos / "metadata.jsonl").write_text(json.dumps({"file_name": "rocket.png", "text": "a rocket"}) + "\n")
    own = {"coffee.png": words("a cup of zorb on a table"), "rocket.png": words("zorb, a rocket")}
    plain = prepare(photos, out, "--trigger", "zorb")
    assert {name for name, caption in plain.items() if caption == ["zorb"]} == {p.name for p in pictures} - set(own)
    # The trigger word alone is no caption: now they get one.
    tagged = prepare(photos, out, "--trigger", "zorb", "--caption", "wd14", "--caption-model", wd14,
                     "--tag-blacklist", "thing 7,THING_8")  # fmt: skip
    for picture in pictures:
        if picture.name in own:
            assert tagged[picture.name] == own[picture.name]
            continue
        expected, _ = describe({"kind": "wd14", "model": str(wd14), "blacklist": ["thing 7", "thing 8"]},
                               [out / picture.name])  # fmt: skip
        assert tagged[picture.name] == words(f"zorb, {expected[0]}")
    florence = ("--caption", "florence2", "--caption-model", florence2[0], "--caption-detail", "short")
    assert prepare(photos, out, "--trigger", "zorb", *florence) == tagged, "captions that are there stay"
    for picture in pictures[1:]:  # a random model talks on to its limit, so one is enough
        (photos / picture.name).unlink()
    told = prepare(photos, out, "--overwrite-captions", *florence)
    expected, _ = describe({"kind": "florence2", "model": str(florence2[0]), "detail": "short"}, [out / n for n in told])
    assert list(told.values()) == list(map(words, expected))
