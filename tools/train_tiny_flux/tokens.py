# SPDX-License-Identifier: Apache-2.0
"""Caption to ids, fast: the two tokenizers read from a pipeline folder, without transformers.

Equality with transformers' tokenizers is checked by check_pipeline.py.
"""

import json
import pathlib
import re

import numpy as np
import sentencepiece

from config import CLIP_TOKENS, TEXT_TOKENS


def byte_symbols():
    """GPT-2's printable symbol of each byte, by byte, and the same in the order of the vocabulary."""
    ordered = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = {b: chr(b) for b in ordered}
    for b in range(256):
        if b not in symbols:
            symbols[b] = chr(256 + len(symbols) - len([*range(33, 127), *range(161, 173), *range(174, 256)]))
            ordered.append(b)
    return symbols, [symbols[b] for b in ordered]


WORDS = re.compile(r"[a-z]+|[0-9]|[^\sa-z0-9]+")


class ClipTokens:
    """CLIP's byte-pair encoding of plain ASCII captions; words are remembered."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self.vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")[1:]
        self.rank = {tuple(line.split()): i for i, line in enumerate(lines) if line}
        self.begin, self.end = (self.vocabulary[t] for t in ("<|startoftext|>", "<|endoftext|>"))
        self.known = {}

    def word(self, word):
        """Ids of one lower-case word."""
        if word not in self.known:
            parts = [*word[:-1], word[-1] + "</w>"]
            while len(parts) > 1:
                pairs = [self.rank.get(pair, 1 << 30) for pair in zip(parts, parts[1:])]
                best = min(pairs)
                if best == 1 << 30:
                    break
                i = pairs.index(best)
                parts[i : i + 2] = [parts[i] + parts[i + 1]]
            self.known[word] = [self.vocabulary[p] for p in parts]
        return self.known[word]

    def __call__(self, text, length=CLIP_TOKENS):
        ids = [i for w in WORDS.findall(text.lower()) for i in self.word(w)][: length - 2]
        ids = [self.begin, *ids, self.end]
        return ids + [self.end] * (length - len(ids))


class T5Tokens:
    """T5's sentencepiece ids, ended by 1 and padded with 0."""

    def __init__(self, folder):
        self.model = sentencepiece.SentencePieceProcessor(model_file=str(pathlib.Path(folder) / "spiece.model"))

    def __call__(self, text, length=TEXT_TOKENS):
        ids = self.model.encode(text)[: length - 1] + [1]
        return ids + [0] * (length - len(ids))


def encode_captions(pipeline, texts):
    """(CLIP ids [N, CLIP_TOKENS], T5 ids [N, TEXT_TOKENS]) int16 of a list of captions."""
    clip, t5 = ClipTokens(f"{pipeline}/tokenizer"), T5Tokens(f"{pipeline}/tokenizer_2")
    return (np.array([clip(t) for t in texts], np.int16).reshape(-1, CLIP_TOKENS),
            np.array([t5(t) for t in texts], np.int16).reshape(-1, TEXT_TOKENS))  # fmt: skip
