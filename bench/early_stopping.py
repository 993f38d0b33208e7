# SPDX-License-Identifier: Apache-2.0
"""Does the stop lose anything? Twelve runs of the built-in model, each until validate.stop ends it and then in full.

    python bench/early_stopping.py --program build/fluxlora --work DIR --jobs 16 [--set tuning judged cost]

For each: (L_base - L_chosen) / (L_base - L_best of the full run), and the steps that were saved. validate.patience and
validate.min_gain are to be set on the runs of `--set tuning` alone, which have other subjects. `--set cost` are runs
with every default: which share of their time validation takes. Figures: docs/eval.md.
"""

import shutil

from tiny_runs import account, arguments, measure_all, metrics, train

STEPS = 800


def runs(first_subject, plan):
    """{name: run}: another subject each."""
    return {
        f"stop-{first_subject + i}": {
            "subject": first_subject + i, "pictures": pictures,
            "settings": {"train.steps": STEPS, "train.learning_rate": rate, "train.schedule": schedule, "lora.rank": rank,
                         "lora.alpha": rank, "train.seed": i},
        }
        for i, (pictures, rate, schedule, rank) in enumerate(plan)
    }  # fmt: skip


# pictures, learning rate, schedule, rank
SETS = {
    "tuning": runs(100, [(6, 1e-3, "constant", 8), (8, 2e-4, "constant", 8), (12, 3e-4, "cosine", 8),
                         (20, 1e-3, "constant", 16), (24, 5e-4, "cosine", 4), (30, 2e-4, "constant", 16)]),
    "judged": runs(0, [(5, 3e-4, "constant", 8), (6, 3e-3, "constant", 8), (8, 5e-4, "constant", 16),
                       (8, 1e-3, "cosine", 8), (10, 3e-3, "cosine", 8), (12, 2e-4, "cosine", 4),
                       (12, 2e-3, "constant", 8), (15, 1e-3, "constant", 8), (18, 5e-4, "constant", 16),
                       (20, 3e-4, "constant", 4), (24, 1e-3, "cosine", 16), (30, 1e-4, "constant", 8)]),
    "cost": {f"cost-{n}": {"subject": 150, "pictures": n, "defaults": True,
                           "settings": {"validate.stop": False, "sample.every": 0}} for n in (12, 30)},
}  # fmt: skip


def losses(lines):
    return [(line["step"], line["val_loss"]) for line in lines]


def judge(options, name, run):
    """What the run that stops left, and what the full one did."""
    if run.get("defaults"):
        return account(train(options, name, run))
    folder = options.work / "runs" / name
    short = folder / "stopped.jsonl"
    if not short.exists():
        train(options, name, {**run, "settings": {**run["settings"], "validate.stop": True}})
        shutil.copy(folder / "metrics.jsonl", short)
    # Resuming is exact: what follows is the rest of the run that would not have stopped.
    train(options, name, {**run, "settings": {**run["settings"], "validate.stop": False}})
    stopped = losses(metrics(short)[1])
    full = account(folder)
    if stopped != losses(full["validations"])[: len(stopped)] or full["validations"][-1]["step"] != STEPS:
        raise ValueError("the run that stops is not the beginning of the full one")
    return {"stopped_after": stopped[-1][0], **full}


def gain_kept(result):
    """(share of the gain kept, step chosen, base, chosen and best loss); no share where there is no gain to keep"""
    full = losses(result["validations"])
    base, best = full[0][1], min(loss for _, loss in full)
    step, chosen = min((p for p in full if p[0] <= result["stopped_after"]), key=lambda point: point[1])
    return (base - chosen) / (base - best) if best < base else None, step, base, chosen, best


def report(name, result):
    share, step, base, loss, best = gain_kept(result)
    s = result["run"]["settings"]
    kept = f"{100 * share:.1f} %" if share is not None else "nothing to keep"
    print(f"| {name} | {result['run']['pictures']} | {s['train.learning_rate']:g} | {s['train.schedule']} | {s['lora.rank']} | "
          f"{kept} | {result['stopped_after']} | {step} | {base:.4f} | {loss:.4f} | {best:.4f} |")  # fmt: skip
    return share


def main():
    options = arguments(__doc__, SETS).parse_args()
    options.output = options.output or options.work / "early_stopping.json"
    done = measure_all(options, {name: run for one in options.sets for name, run in SETS[one].items()}, judge)
    if not done:
        return
    print("\n| run | pictures | rate | schedule | rank | gain kept | stopped after | chosen | L base | L chosen | L best |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    stopping = {name: result for name, result in done.items() if "stopped_after" in result}
    kept = [share for name, result in stopping.items() if (share := report(name, result)) is not None]
    if kept:
        steps = sum(result["stopped_after"] for result in stopping.values())
        print(f"\n{sum(k >= 0.95 for k in kept)} of {len(kept)} keep 95 % or more; smallest {100 * min(kept):.1f} %, "
              f"median {100 * sorted(kept)[len(kept) // 2]:.1f} %; "
              f"{100 * (1 - steps / (STEPS * len(stopping))):.0f} % of the steps saved")  # fmt: skip
    for name, result in done.items():
        if "stopped_after" not in result:
            share = result["seconds_of_validation"] / (result["seconds_of_validation"] + result["seconds_of_steps"])
            print(f"{name}, all defaults: validation takes {100 * share:.1f} % of the time of steps and validations")


if __name__ == "__main__":
    main()
