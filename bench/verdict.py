# SPDX-License-Identifier: Apache-2.0
"""Is `fluxlora evaluate` right? Twenty runs of the built-in model whose truth is known.

    python bench/verdict.py --program build/fluxlora --work DIR [--set tuning] [--only 0,1,2]

Five made to overfit (5 pictures, a very high rate), five to bleed (a common word as trigger, nothing else to hold it),
five to underfit (50 steps), five good ones. Thresholds (src/eval/verdict.h) are to be set on the runs of
`--set tuning` alone, which have other subjects, words and seeds. State of the figures: docs/eval.md.
"""

import json

from tiny_runs import evaluate, options_and_chosen, train


def run(subject, pictures, settings, **more):
    settings = {"train.seed": subject, "validate.stop": False, "train.schedule": "constant", **settings}
    return {"subject": subject, "pictures": pictures, "settings": settings, **more}


def overfit(subject, rate):
    return run(subject, 5, {"train.steps": 300, "train.learning_rate": rate}, regularisation=True)


def bleeds(subject, word):
    return run(subject, 14, {"train.steps": 300, "train.learning_rate": 3e-3, "train.schedule": "cosine"}, trigger=word)


def underfit(subject, rate):
    return run(subject, 14, {"train.steps": 50, "train.learning_rate": rate, "validate.every": 10}, regularisation=True)


def good(subject, pictures):
    return run(subject, pictures, {"train.steps": 400, "train.learning_rate": 3e-3, "train.schedule": "cosine"},
               regularisation=True)  # fmt: skip


def plan(first, rates, words, low, sizes):
    """[(truth, run)]"""
    runs = [("overfit", overfit(first + i, rate)) for i, rate in enumerate(rates)]
    runs += [("bleeds", bleeds(first + 10 + i, word)) for i, word in enumerate(words)]
    runs += [("underfit", underfit(first + 20 + i, rate)) for i, rate in enumerate(low)]
    return runs + [("good", good(first + 30 + i, size)) for i, size in enumerate(sizes)]


TUNING = plan(300, [1e-2, 2e-2], ["ring", "cross"], [5e-4, 1e-3], [14, 24])
JUDGED = plan(200, [1e-2, 1.5e-2, 2e-2, 1e-2, 1.5e-2], ["circle", "star", "square", "heart", "moon"],
              [5e-4, 7e-4, 1e-3, 5e-4, 7e-4], [14, 16, 20, 24, 30])  # fmt: skip


def main():
    options, chosen = options_and_chosen(__doc__, enumerate(JUDGED), enumerate(TUNING))
    print("| run | truth | verdict | gain | gap | falling | bleed | near | following | likeness | spill | distortion |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    right = 0
    for i, (truth, one) in chosen:
        folder = train(options.program, options.work, f"verdict-{options.set}-{i}", one, options.threads)
        answer = evaluate(options.program, folder, options.threads)
        m = answer["checkpoints"][-1]
        right += answer["verdict"] == truth
        numbers = " | ".join(f"{m[k]:.2f}" for k in ("gain", "gap", "falling", "bleed", "near_bleed", "following",
                                                     "likeness", "spill", "distortion"))  # fmt: skip
        print(f"| {i} | {truth} | {answer['verdict']} | {numbers} |", flush=True)
        with open(options.work / "verdicts.jsonl", "a", encoding="utf-8") as log:
            log.write(json.dumps({"set": options.set, "run": i, "truth": truth, **m}) + "\n")
    print(f"\n{right} of {len(chosen)} named rightly")


if __name__ == "__main__":
    main()
