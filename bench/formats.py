# SPDX-License-Identifier: Apache-2.0
"""Do weights in few bits train as well? 500 steps of the built-in model in each format of model.precision.

    python bench/formats.py --program build/fluxlora --work DIR [--only bf16-400,nf4-400] [--jobs 2]

Each format trains the same LoRA on the same pictures, noise and times, for two subjects. Printed: the validation loss
before and at its best (which is what a run keeps), what was gained, and that as a share of what bf16 gained: counted
from the format's own base, and from bf16's base, which counts what quantising costs as a loss. State of the figures:
docs/memory.md.
"""

from tiny_runs import account, arguments, measure_all, train

FORMATS = ["bf16", "fp8", "int8", "nf4"]
SUBJECTS = [400, 401]
SETTINGS = {"train.steps": 500, "train.learning_rate": 1e-3, "train.schedule": "cosine", "train.seed": 1,
            "validate.every": 50, "validate.stop": False}  # fmt: skip


def run(form, subject):
    return {"subject": subject, "pictures": 16, "settings": {**SETTINGS, "model.precision": form}}


def measure(options, name, one):
    return account(train(options, name, one))


def main():
    options = arguments(__doc__).parse_args()
    options.output = options.output or options.work / "formats.json"
    runs = {f"{form}-{subject}": run(form, subject) for subject in SUBJECTS for form in FORMATS}
    done = measure_all(options, runs, measure)
    ends = {}
    for name, result in done.items():
        losses = [line["val_loss"] for line in result["validations"]]
        ends[name] = losses[0], min(losses)
    print("| subject | weights | loss before | at its best | gained | share of bf16's | counted from bf16's base |")
    print("|---|---|---|---|---|---|---|")
    for name, (before, after) in ends.items():
        form, subject = name.split("-")
        base, best = ends.get(f"bf16-{subject}", (before, after))
        print(f"| {subject} | {form} | {before:.5f} | {after:.5f} | {before - after:.5f} "
              f"| {(before - after) / (base - best):.1%} | {(base - after) / (base - best):.1%} |")  # fmt: skip


if __name__ == "__main__":
    main()
