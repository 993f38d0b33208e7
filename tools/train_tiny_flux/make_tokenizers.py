# SPDX-License-Identifier: Apache-2.0
"""Trains the two tokenizers on captions and writes tokenizer/ and tokenizer_2/ of the pipeline.

    python make_tokenizers.py --pipeline ../../assets/tiny-flux
"""

import argparse
import collections
import io
import json
import pathlib

import sentencepiece

import captions
import config
import world
from tokens import WORDS, byte_symbols

ROUND_WORDS = """a an and are at background beautiful bird black blue boat book boy brown car cat chair city cloud
dark dog face fish flower forest from girl glass gold green grey hand hat high house in is it large light man
mountain my night of on one out painting paper person photo photograph picture pink plant portrait quality red
river robot round sea sharp silver sky small snow soft sun table the this to toy tree under very watercolor water
white window with woman wood yellow your cream teal eye eyes antenna legs two three standing sitting smiling""".split()


def caption_corpus(count):
    """count captions of training scenes, plus sentences of everyday words."""
    rng = world.seeded("tokenizers")
    writer = captions.CaptionWriter(rng)
    lines = [writer.write(world.random_scene(rng)) for _ in range(count)]
    lines += [" ".join(rng.choices(ROUND_WORDS, k=6)) for _ in range(count // 60)]
    lines += [captions.nonsense(rng) for _ in range(count // 60)]
    return lines


def train_clip(lines, vocabulary):
    """Byte-pair merges learnt from lines: list of (left, right), until vocabulary ids are used."""
    counts = collections.Counter(w for line in lines for w in WORDS.findall(line.lower()))
    words = [([*w[:-1], w[-1] + "</w>"], n) for w, n in counts.items()]
    merges = []
    while len(merges) < vocabulary - 514:
        pairs = collections.Counter()
        for parts, n in words:
            for pair in zip(parts, parts[1:]):
                pairs[pair] += n
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        for parts, _ in words:
            i = 0
            while i < len(parts) - 1:
                if (parts[i], parts[i + 1]) == best:
                    parts[i : i + 2] = [parts[i] + parts[i + 1]]
                i += 1
    return merges


def write_json(path, content):
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_clip(folder, merges):
    """tokenizer/ in CLIP's layout: 256 byte symbols, the same with </w>, merges, two specials."""
    folder.mkdir(parents=True, exist_ok=True)
    _, symbols = byte_symbols()
    tokens = [*symbols, *(s + "</w>" for s in symbols), *(a + b for a, b in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    assert len(set(tokens)) == len(tokens) == config.CLIP_VOCABULARY
    vocabulary = json.dumps({t: i for i, t in enumerate(tokens)}, ensure_ascii=False, separators=(",", ":"))
    (folder / "vocab.json").write_text(vocabulary, encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    specials = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
                "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}  # fmt: skip
    write_json(folder / "special_tokens_map.json", specials)
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True,
        "errors": "replace", "add_prefix_space": False, **specials,
    })  # fmt: skip


def write_t5(folder, lines):
    """tokenizer_2/ in T5's layout: a unigram sentencepiece model with the nmt_nfkc character map."""
    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()  # no file names, so that the same captions give the same bytes
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=config.T5_PIECES, model_type="unigram",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, character_coverage=1.0, normalization_rule_name="nmt_nfkc",
        required_chars="abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"-()&/",
        num_threads=1, minloglevel=2,
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(model.getvalue())
    sentinels = [f"<extra_id_{i}>" for i in range(config.T5_SENTINELS)]
    specials = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    write_json(folder / "special_tokens_map.json", {"additional_special_tokens": sentinels, **specials})
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "T5Tokenizer", "model_max_length": 512, "extra_ids": config.T5_SENTINELS,
        "additional_special_tokens": sentinels, **specials,
    })  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", type=pathlib.Path, required=True)
    parser.add_argument("--captions", type=int, default=60000)
    options = parser.parse_args()
    lines = caption_corpus(options.captions)
    write_clip(options.pipeline / "tokenizer", train_clip(lines, config.CLIP_VOCABULARY))
    write_t5(options.pipeline / "tokenizer_2", lines)


if __name__ == "__main__":
    main()
