# SPDX-License-Identifier: Apache-2.0
"""Does the stop lose anything? Twelve runs of the built-in model, each until validate.stop ends it and then in full.

    python bench/early_stopping.py --program build/fluxlora --work DIR [--set tuning] [--only 0,1,2]

For each: (L_base - L_chosen) / (L_base - L_best of the full run), and the steps that were saved. validate.patience and
validate.min_gain are to be set on the runs of `--set tuning` alone, which have other subjects. Figures: docs/eval.md.
"""

import shutil

from tiny_runs import history, options_and_chosen, run_folder, train

STEPS = 400


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
TUNING = runs(100, [(6, 1e-2, "constant", 8), (12, 3e-3, "cosine", 8), (20, 1e-3, "constant", 16),
                    (10, 5e-3, "constant", 4)])  # fmt: skip
JUDGED = runs(0, [(5, 1e-2, "constant", 8), (6, 3e-3, "constant", 8), (8, 5e-3, "constant", 16), (8, 1e-3, "cosine", 8),
                  (10, 3e-3, "cosine", 8), (12, 1e-2, "cosine", 4), (12, 2e-3, "constant", 8), (15, 5e-3, "constant", 8),
                  (18, 1e-3, "constant", 16), (20, 3e-3, "constant", 4), (24, 5e-3, "cosine", 16),
                  (30, 2e-3, "constant", 8)])  # fmt: skip


def judge(program, work, name, run, threads):
    """(share of the gain kept, steps done, step chosen, base, chosen and best loss)"""
    folder = run_folder(work, name)
    if not (folder / "stopped.jsonl").exists():
        train(program, work, name, {**run, "settings": {**run["settings"], "validate.stop": True}}, threads)
        shutil.copy(folder / "metrics.jsonl", folder / "stopped.jsonl")
    # Resuming is exact: what follows is the rest of the run that would not have stopped.
    train(program, work, name, {**run, "settings": {**run["settings"], "validate.stop": False}}, threads)
    short, full = history(folder / "stopped.jsonl"), history(folder / "metrics.jsonl")
    if short != full[: len(short)] or full[-1][0] != STEPS:
        raise SystemExit(f"{name}: the run that stops is not the beginning of the full one")
    base, best = full[0][1], min(loss for _, loss in full)
    step, chosen = min(short, key=lambda point: point[1])
    share = (base - chosen) / (base - best) if best < base else 1  # nothing was gained, nothing lost
    return share, short[-1][0], step, base, chosen, best


def main():
    options, chosen = options_and_chosen(__doc__, JUDGED.items(), TUNING.items())
    print("| run | pictures | rate | schedule | rank | gain kept | stopped after | chosen | L base | L chosen | L best |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    kept, done = [], 0
    for name, run in chosen:
        share, steps, step, base, loss, best = judge(options.program, options.work, name, run, options.threads)
        s = run["settings"]
        print(f"| {name} | {run['pictures']} | {s['train.learning_rate']:g} | {s['train.schedule']} | {s['lora.rank']} | "
              f"{100 * share:.1f} % | {steps} | {step} | {base:.4f} | {loss:.4f} | {best:.4f} |", flush=True)  # fmt: skip
        kept.append(share)
        done += steps
    print(f"\n{sum(k >= 0.95 for k in kept)} of {len(kept)} keep 95 % or more; "
          f"{100 * (1 - done / (STEPS * len(kept))):.0f} % of the steps saved")  # fmt: skip


if __name__ == "__main__":
    main()
