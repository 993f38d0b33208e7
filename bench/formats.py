# SPDX-License-Identifier: Apache-2.0
"""Do weights in few bits train as well? 500 steps of the built-in model in each format of model.precision.

    python bench/formats.py --program build/fluxlora --work DIR [--only 0,2]

Each format trains the same LoRA on the same pictures, noise and times. Printed: the validation loss before and after,
what was gained, and that as a share of what bf16 gained: counted from the format's own base, and from bf16's base,
which counts what quantising costs as a loss. State of the figures: docs/memory.md.
"""

from tiny_runs import history, options_and_chosen, train

FORMATS = ["bf16", "fp8", "int8", "nf4"]
SETTINGS = {"train.steps": 500, "train.learning_rate": 3e-3, "train.schedule": "cosine", "train.seed": 1,
            "validate.every": 100, "validate.stop": False}  # fmt: skip


def main():
    options, chosen = options_and_chosen(__doc__, FORMATS, FORMATS)
    print("| weights | validation loss before | after | gained | share of bf16's | counted from bf16's base |")
    print("|---|---|---|---|---|---|")
    bf16 = None
    for name in chosen:
        run = {"subject": 400, "pictures": 16, "settings": {**SETTINGS, "model.precision": name}}
        folder = train(options.program, options.work, f"formats-{name}", run, options.threads)
        losses = dict(history(folder / "metrics.jsonl"))
        before, after = losses[0], losses[SETTINGS["train.steps"]]
        bf16 = bf16 or (before, after)
        gained = bf16[0] - bf16[1]
        print(f"| {name} | {before:.5f} | {after:.5f} | {before - after:.5f} | {(before - after) / gained:.1%} "
              f"| {(bf16[0] - after) / gained:.1%} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
