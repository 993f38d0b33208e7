# SPDX-License-Identifier: Apache-2.0
"""Writes tokenizer_expected.json: texts and the ids that transformers gives them with the built-in tokenizers.

    python tests/unit/make_tokenizer_expected.py

Again whenever assets/tiny-flux/tokenizer or tokenizer_2 changes; tests/interop/test_tokenizers.py says when.
"""

import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "interop"))
import texts  # noqa: E402

TARGET = pathlib.Path(__file__).with_name("tokenizer_expected.json")
COUNT = 220


def expected():
    """{"clip": [[text, ids], ...], "t5": ...}, begin and end ids included."""
    from transformers import CLIPTokenizer, T5Tokenizer

    clip = CLIPTokenizer.from_pretrained(ROOT / "assets" / "tiny-flux" / "tokenizer")
    t5 = T5Tokenizer.from_pretrained(ROOT / "assets" / "tiny-flux" / "tokenizer_2")
    return {"clip": [[t, clip(t)["input_ids"]] for t in texts.texts(COUNT, texts.CLIP_SPECIALS) if len(t) < 200],
            "t5": [[t, t5(t)["input_ids"]] for t in texts.texts(COUNT, texts.T5_SPECIALS) if len(t) < 200]}  # fmt: skip


if __name__ == "__main__":
    lines = [f'"{kind}": [\n' + ",\n".join(map(json.dumps, pairs)) + "\n]" for kind, pairs in expected().items()]
    TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
