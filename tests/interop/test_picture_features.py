# SPDX-License-Identifier: Apache-2.0
"""What DINOv2 and CLIP see of pictures, against transformers' processors and ONNX Runtime; `evaluate --features`."""

import json
import os
import pathlib
import subprocess

import numpy as np
import pytest
from PIL import Image

import caption_models
from programs import program, short_run

openvino = pytest.importorskip("openvino")
onnxruntime = pytest.importorskip("onnxruntime")
ENVIRONMENT = dict(os.environ, FLUXLORA_OPENVINO=str(pathlib.Path(openvino.__file__).parent / "libs"))
MODELS = {"dinov2": caption_models.make_dinov2, "clip": caption_models.make_clip_eyes}


@pytest.fixture(scope="module", params=MODELS)
def eyes(request, tmp_path_factory):
    return MODELS[request.param](tmp_path_factory.mktemp(request.param))


def unit(vector):
    return vector / np.linalg.norm(vector)


def theirs(folder, image):
    from transformers import AutoImageProcessor

    pixels = AutoImageProcessor.from_pretrained(folder, backend="pil")(image, return_tensors="np")["pixel_values"]
    session = onnxruntime.InferenceSession(str(folder / "onnx/model.onnx"))
    (out,) = session.run(None, {"pixel_values": pixels.astype(np.float32)})
    return unit(out.reshape(-1, out.shape[-1])[0])


def test_vectors(eyes, tmp_path):
    from skimage import data

    arrays = {"square": data.astronaut(), "wide": data.chelsea(), "tall": data.coffee()[:, 150:400],
              "small": data.astronaut()[60:108, 200:240]}  # fmt: skip
    files = []
    for name, pixels in arrays.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        files.append(str(tmp_path / f"{name}.png"))
    options = {"kind": "features", "model": str(eyes / "onnx/model.onnx")}
    done = subprocess.run([program("caption_dump"), json.dumps(options), *files], capture_output=True, text=True,
                          env=ENVIRONMENT, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours = [np.array(line.split(), float) for line in done.stdout.splitlines()]
    expected = [theirs(eyes, Image.open(file)) for file in files]
    for file, own, other in zip(files, ours, expected, strict=True):
        # A cubic that differs by a few of 255 in some pixels (src/data/resize.h) and two runtimes' f32.
        assert own @ other > 0.999, file
    # And that is close: different pictures are further apart.
    assert max(expected[i] @ expected[j] for i in range(4) for j in range(i)) < 0.995


def test_evaluate_tells_the_similarity(eyes, tmp_path):
    config = short_run(steps=4, text_tokens=16).replace("[train]", "[validate]\nevery = 2\n[train]")
    (tmp_path / "short.toml").write_text(config)
    call = [program("fluxlora"), "train", tmp_path / "short.toml", "--set", f"output.path={tmp_path}/run",
            "--set", "sample.every=0", "--set", "dataset.resolution=64", "--device", "cpu"]  # fmt: skip
    subprocess.run(call, check=True, capture_output=True)
    call = [program("fluxlora"), "evaluate", tmp_path / "run", "--json", "--features", eyes / "onnx/model.onnx"]
    done = subprocess.run([*call, "--device", "cpu"], check=True, capture_output=True, text=True, env=ENVIRONMENT)
    answer = json.loads(done.stdout)
    values = [answer["base_similarity"], *(checkpoint["similarity"] for checkpoint in answer["checkpoints"])]
    assert all(-1 <= value <= 1 for value in values) and len(set(values)) > 1
