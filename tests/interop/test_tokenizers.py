# SPDX-License-Identifier: Apache-2.0
"""Our tokenizers against the fast ones of transformers 5: identical ids, text for text."""

import gzip
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from programs import ROOT, TINY, program
from texts import CLIP_SPECIALS, T5_SPECIALS, texts

COUNT = int(os.environ.get("FLUXLORA_TOKENIZER_TEXTS", "3000"))


def dump(kind, folder, length, strings):
    """Lists of ids from our program."""
    data = b"".join(b"%d\n%s" % (len(b), b) for b in (s.encode() for s in strings))
    command = [program("tokenize_dump"), kind, folder, str(length)]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return [[int(i) for i in line.split()] for line in done.stdout.decode().splitlines()]


def compare(kind, folder, tokenizer, strings, length):
    ours = dump(kind, folder, 0, strings)
    theirs = [tokenizer(s)["input_ids"] for s in strings]
    wrong = [(s, a, b) for s, a, b in zip(strings, ours, theirs, strict=True) if a != b]
    assert not wrong, f"{len(wrong)} of {len(strings)} differ, the first: {wrong[0]!r}"
    ours = dump(kind, folder, length, strings)
    theirs = [tokenizer(s, padding="max_length", max_length=length, truncation=True)["input_ids"] for s in strings]
    assert ours == theirs


@pytest.fixture(scope="module")
def clip_texts():
    return texts(COUNT, CLIP_SPECIALS)


@pytest.fixture(scope="module")
def t5_texts():
    return texts(COUNT, T5_SPECIALS)


@pytest.fixture(scope="module")
def real_clip(tmp_path_factory):
    """CLIP's own 49,408 words, from the list inside open_clip (an installed package)."""
    package = importlib.util.find_spec("open_clip")
    if package is None:
        pytest.skip("open_clip is not installed")
    with gzip.open(pathlib.Path(package.origin).parent / "bpe_simple_vocab_16e6.txt.gz") as f:
        merges = f.read().decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    tokens = symbols + [s + "</w>" for s in symbols] + ["".join(m.split()) for m in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    assert len(tokens) == 49408
    folder = tmp_path_factory.mktemp("clip")
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    shutil.copy(TINY / "tokenizer" / "tokenizer_config.json", folder)
    return folder


def with_config(source, target, change):
    """A copy of a tokenizer folder whose tokenizer_config.json is changed."""
    shutil.copytree(source, target)
    path = target / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(json.dumps(config), encoding="utf-8")
    return target


def open_clip_folder(folder):
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder)


def open_t5_folder(folder):
    from transformers import T5Tokenizer

    return T5Tokenizer.from_pretrained(folder)


def test_tiny_clip(clip_texts):
    folder = TINY / "tokenizer"
    compare("clip", folder, open_clip_folder(folder), clip_texts, 77)


def test_real_clip(real_clip, clip_texts):
    compare("clip", real_clip, open_clip_folder(real_clip), clip_texts, 77)


def test_clip_config_of_the_published_folders(real_clip, clip_texts, tmp_path):
    """The published file looks for the start token in normalised text; other models pad with "!"."""

    def change(config):
        def token(content, normalized):
            flags = {"lstrip": False, "rstrip": False, "single_word": False, "special": True}
            return {"content": content, "normalized": normalized, **flags}

        config["added_tokens_decoder"] = {"0": token("!", False), "49406": token("<|startoftext|>", True),
                                          "49407": token("<|endoftext|>", False)}
        config["pad_token"] = "!"

    folder = with_config(real_clip, tmp_path / "clip", change)
    compare("clip", folder, open_clip_folder(folder), clip_texts, 77)


def test_clip_from_tokenizer_json(clip_texts, tmp_path):
    tokenizer = open_clip_folder(TINY / "tokenizer")
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "vocab.json").unlink(missing_ok=True)
    assert (tmp_path / "tokenizer.json").exists()
    compare("clip", tmp_path, open_clip_folder(tmp_path), clip_texts, 77)


def test_tiny_t5(t5_texts):
    folder = TINY / "tokenizer_2"
    compare("t5", folder, open_t5_folder(folder), t5_texts, 64)


def test_t5_with_specials_as_published(t5_texts, tmp_path):
    """The published folder lists its sentinels with lstrip and rstrip."""

    def change(config):
        tokens = {0: "<pad>", 1: "</s>", 2: "<unk>"} | {1023 - k: f"<extra_id_{k}>" for k in range(100)}
        flags = {"normalized": False, "single_word": False, "special": True}
        config["added_tokens_decoder"] = {
            str(i): {"content": t, "lstrip": i > 2, "rstrip": i > 2, **flags} for i, t in tokens.items()}

    folder = with_config(TINY / "tokenizer_2", tmp_path / "t5", change)
    compare("t5", folder, open_t5_folder(folder), t5_texts, 512)


def test_t5_of_another_corpus(t5_texts, tmp_path):
    """Pieces of many scripts, so that the search has choices everywhere."""
    import sentencepiece

    corpus = tmp_path / "corpus.txt"
    lines = [t.replace("\n", " ").replace("\0", "")[:400] for t in texts(6000, ["x"]) if t.strip()]
    corpus.write_text("\n".join(lines), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "spiece"), vocab_size=12000, character_coverage=0.98,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>", num_threads=2, minloglevel=2, hard_vocab_limit=False)
    compare("t5", tmp_path, open_t5_folder(tmp_path), t5_texts, 128)


def test_real_clip_literal_ids(real_clip):
    """Ids written down elsewhere, so that no mistake of this file's comparison can hide."""
    expected = {
        "": [], "A Photo of  a CAT!": [320, 1125, 539, 320, 2368, 256],
        "masterpiece, best quality, 1girl, 2024": [12066, 267, 949, 3027, 267, 272, 1611, 267, 273, 271, 273, 275],
        "don't stop, it's fine": [847, 713, 1691, 267, 585, 568, 3797], "naïve café": [1097, 35689, 563, 15304],
        "日本語": [39121, 44353, 34002, 508], "🐱": [22979], "x" * 30: [32035] * 6 + [5675, 22819],
    }  # fmt: skip
    assert dump("clip", real_clip, 0, list(expected)) == [[49406, *ids, 49407] for ids in expected.values()]


def test_expectations_of_the_unit_test_are_current():
    sys.path.insert(0, str(ROOT / "tests" / "unit"))
    import make_tokenizer_expected as made

    message = "run tests/unit/make_tokenizer_expected.py: the built-in tokenizers or the texts have changed"
    assert json.loads(made.TARGET.read_text(encoding="utf-8")) == json.loads(json.dumps(made.expected())), message


@pytest.mark.parametrize("kind,folder", [("clip", "tokenizer"), ("t5", "tokenizer_2")])
def test_text_that_is_not_utf8(kind, folder):
    command = [program("tokenize_dump"), kind, TINY / folder, "77"]
    done = subprocess.run(command, input=b"3\na\xffb", capture_output=True, check=False)
    assert done.returncode == 2
    assert b"is not UTF-8" in done.stderr
