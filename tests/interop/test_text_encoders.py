# SPDX-License-Identifier: Apache-2.0
"""Our text encoders against those of transformers, on the built-in model and on random ones of other sizes.

Tolerances: f32 sums of these sizes differ by some 1e-6 between any two orders of adding; 1e-5 leaves room for
another BLAS. In f64 transformers computes T5's softmax and the RMS norms' statistics in f32, which sets its floor.
"""

import json
import subprocess

import pytest
import safetensors.torch
import torch
from programs import TINY, program
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

PROMPTS = ["", "a large red circle on the left, blue background", "mytoken_mascot, a photo of sks", "green " * 90]



def clip_sizes(width, hidden, layers, heads, vocabulary, **more):
    return {"hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": layers,
            "num_attention_heads": heads, "vocab_size": vocabulary, **more}  # fmt: skip


def t5_sizes(width, head_width, heads, hidden, layers, vocabulary, **more):
    return {"d_model": width, "d_kv": head_width, "num_heads": heads, "d_ff": hidden, "num_layers": layers,
            "vocab_size": vocabulary, **more}  # fmt: skip


CLIP_SIZES = {
    "one head": clip_sizes(24, 40, 1, 1, 99),
    "many heads": clip_sizes(96, 200, 3, 12, 500),
    "wide heads": clip_sizes(256, 64, 2, 2, 1000, max_position_embeddings=33, layer_norm_eps=1e-3),
}
T5_SIZES = {
    "heads wider than the model": t5_sizes(48, 40, 3, 96, 2, 200),
    "heads narrower than the model": t5_sizes(128, 8, 5, 72, 3, 300),
    "other buckets": t5_sizes(64, 16, 4, 64, 1, 100, relative_attention_num_buckets=16,
                              relative_attention_max_distance=50, layer_norm_epsilon=1e-4),
}  # fmt: skip


def randomise(model, seed):
    """Values for every parameter, norms and biases too, so that none can be forgotten unseen."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        scale = p.shape[-1] ** -0.5 if p.dim() == 2 and "embed" not in name else 0.5
        mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        p.data = mean + scale * torch.randn(p.shape, generator=generator)


def run(kind, folder, ids, tmp_path, dtype="f32"):
    files = [tmp_path / "in.safetensors", tmp_path / "out.safetensors"]
    safetensors.torch.save_file({"ids": ids.int().contiguous()}, files[0])
    return subprocess.run([program("text_dump"), kind, folder, *files, dtype], capture_output=True, check=False)


def ours(kind, folder, ids, tmp_path, dtype="f32"):
    done = run(kind, folder, ids, tmp_path, dtype)
    assert done.returncode == 0, done.stderr.decode()
    return safetensors.torch.load_file(tmp_path / "out.safetensors")["output"]


def error(a, b):
    assert a.shape == b.shape
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def check_clip(folder, ids, tmp_path):
    model = CLIPTextModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        assert error(ours("clip", folder, ids, tmp_path), model(ids).pooler_output) < 1e-5
        assert error(ours("clip", folder, ids, tmp_path, "f64"), model.double()(ids).pooler_output) < 1e-12


def check_t5(folder, ids, tmp_path):
    model = T5EncoderModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        assert error(ours("t5", folder, ids, tmp_path), model(ids)[0]) < 1e-5
        assert error(ours("t5", folder, ids, tmp_path, "f64"), model.double()(ids)[0]) < 1e-5


def test_tiny_clip(tmp_path):
    tokenizer = CLIPTokenizer.from_pretrained(TINY / "tokenizer")
    ids = tokenizer(PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    check_clip(TINY / "text_encoder", ids, tmp_path)


@pytest.mark.parametrize("length", [64, 512])
def test_tiny_t5(tmp_path, length):
    tokenizer = T5Tokenizer.from_pretrained(TINY / "tokenizer_2")
    ids = tokenizer(PROMPTS, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    check_t5(TINY / "text_encoder_2", ids, tmp_path)


@pytest.mark.parametrize("prefix", ["", "text_model."])
@pytest.mark.parametrize("eos", ["largest id", "named id", "absent id"])
@pytest.mark.parametrize("size", CLIP_SIZES)
def test_random_clip(tmp_path, size, eos, prefix):
    config = CLIPTextConfig(**CLIP_SIZES[size], eos_token_id={"largest id": 2, "named id": 7, "absent id": 8}[eos])
    model = CLIPTextModel(config)
    randomise(model, 1)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = {prefix + k.removeprefix("text_model."): v for k, v in safetensors.torch.load_file(path).items()}
    tensors |= {"logit_scale": torch.ones(()), "text_projection.weight": torch.ones(2, 2)}  # extras of other files
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    length = config.max_position_embeddings
    ids = torch.randint(10, config.vocab_size, (3, length), generator=torch.Generator().manual_seed(2))
    ids[0, 5], ids[0, 9], ids[1, length - 1], ids[2, 0] = 7, 7, 7, 7
    ids[0, 3], ids[0, 8] = config.vocab_size - 1, config.vocab_size - 1
    check_clip(tmp_path, ids, tmp_path)


@pytest.mark.parametrize("table", ["shared.weight", "encoder.embed_tokens.weight"])
@pytest.mark.parametrize("length", [1, 37, 200])
@pytest.mark.parametrize("size", T5_SIZES)
def test_random_t5(tmp_path, size, length, table):
    config = T5Config(**T5_SIZES[size], feed_forward_proj="gated-gelu")
    model = T5EncoderModel(config)
    randomise(model, 3)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors[table] = tensors.pop("shared.weight")
    ids = torch.randint(0, config.vocab_size, (2, length), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        theirs = model.eval()(ids)[0]
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    assert error(ours("t5", tmp_path, ids, tmp_path), theirs) < 1e-5


def refusal(kind, folder, tmp_path, ids):
    done = run(kind, folder, ids, tmp_path)
    assert done.returncode == 2, done.stderr.decode()
    return done.stderr.decode()


def test_shapes_and_ids_that_do_not_fit(tmp_path):
    folder = tmp_path / "t5"
    T5EncoderModel(T5Config(**T5_SIZES["other buckets"], feed_forward_proj="gated-gelu")).save_pretrained(folder)
    ids = torch.zeros((1, 8), dtype=torch.int32)
    assert "gives the id 100" in refusal("t5", folder, tmp_path, ids + 100)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"d_ff": 60}), encoding="utf-8")
    message = refusal("t5", folder, tmp_path, ids)
    assert "wi_0.weight" in message
    assert "(64, 64)" in message
    assert "(60, 64)" in message
    (folder / "config.json").write_text(json.dumps(config | {"feed_forward_proj": "relu"}), encoding="utf-8")
    assert "feed_forward_proj" in refusal("t5", folder, tmp_path, ids)
