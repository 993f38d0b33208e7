# SPDX-License-Identifier: Apache-2.0
"""Is `fluxlora evaluate` right? Twenty runs of the built-in model whose truth is known.

    python bench/verdict.py --program build/fluxlora --work DIR --jobs 16 [--set tuning judged]

Five made to overfit (5 pictures, a very high rate), five to bleed (a common word as trigger, nothing else to hold it),
five to underfit (50 steps), five good ones. Thresholds (src/eval/verdict.h) are to be set on the runs of
`--set tuning` alone, which have other subjects and seeds. State of the figures: docs/eval.md.
"""

from tiny_runs import account, arguments, evaluate, measure_all, train

COLUMNS = ("gain", "trained_gain", "gap", "falling", "bleed", "near_bleed", "following", "likeness", "spill",
           "distortion")  # fmt: skip


def run(truth, subject, pictures, settings, **more):
    settings = {"train.seed": subject, "validate.stop": False, "train.schedule": "constant", **settings}
    return {"truth": truth, "subject": subject, "pictures": pictures, "settings": settings, **more}


def overfit(subject, rate):
    return run("overfit", subject, 5, {"train.steps": 300, "train.learning_rate": rate}, regularisation=True)


def bleeds(subject, word):
    return run("bleeds", subject, 24, {"train.steps": 300, "train.learning_rate": 1e-3, "train.schedule": "cosine"},
               trigger=word)  # fmt: skip


def underfit(subject, rate):
    return run("underfit", subject, 14, {"train.steps": 50, "train.learning_rate": rate, "validate.every": 10},
               regularisation=True)  # fmt: skip


def good(subject, pictures):
    return run("good", subject, pictures, {"train.steps": 300, "train.learning_rate": 1e-3, "train.schedule": "cosine"},
               regularisation=True)  # fmt: skip


def plan(name, first, rates, words, low, sizes):
    """{name: run}"""
    runs = [overfit(first + i, rate) for i, rate in enumerate(rates)]
    runs += [bleeds(first + 10 + i, word) for i, word in enumerate(words)]
    runs += [underfit(first + 20 + i, rate) for i, rate in enumerate(low)]
    runs += [good(first + 30 + i, size) for i, size in enumerate(sizes)]
    return {f"{name}-{i}": one for i, one in enumerate(runs)}


SETS = {
    "tuning": plan("tuning", 300, [1e-2, 1e-2, 1.5e-2, 1.5e-2, 2e-2, 2e-2],
                   ["square", "moon", "ring", "cross", "heart", "triangle"], [5e-5, 5e-5, 1e-4, 1e-4, 1.5e-4, 2e-4],
                   [18, 20, 22, 24, 27, 30]),
    "judged": plan("judged", 200, [1e-2, 1.5e-2, 2e-2, 1e-2, 1.5e-2], ["circle", "star", "square", "heart", "moon"],
                   [5e-5, 7e-5, 1e-4, 1.5e-4, 2e-4], [18, 20, 24, 27, 30]),
}  # fmt: skip


def judge(options, name, one):
    folder = train(options, name, one)
    return {"evaluation": evaluate(options, folder), **account(folder)}


def main():
    options = arguments(__doc__, SETS).parse_args()
    options.output = options.output or options.work / "verdict.json"
    done = measure_all(options, {name: one for chosen in options.sets for name, one in SETS[chosen].items()}, judge)
    if not done:
        return
    print("\n| run | truth | verdict | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 3) + "|")
    right = 0
    for name, result in done.items():
        truth, evaluation = result["run"]["truth"], result["evaluation"]
        right += evaluation["verdict"] == truth
        numbers = " | ".join(f"{evaluation['checkpoints'][-1][key]:.2f}" for key in COLUMNS)
        print(f"| {name} | {truth} | {evaluation['verdict']} | {numbers} |")
    print(f"\n{right} of {len(done)} named rightly")


if __name__ == "__main__":
    main()
