# SPDX-License-Identifier: Apache-2.0
"""How soon does LoRA-GA reach the validation loss at which plain LoRA ends?

    python bench/starts.py --program build/fluxlora --work DIR --jobs 16

Three subjects, five seeds, the built-in model. First a sweep of learning rates for each start on a seed of its own;
then the series, each start at its best rate, by the mean loss at the end. The ratio is the steps to plain LoRA's last
loss over plain LoRA's steps, between validations by straight lines. Plain LoRA's own ratio stands beside it: its loss
goes up and down at a constant rate, so it too comes to its last loss before its last step. Figures: docs/training.md.
"""

import statistics

from tiny_runs import account, arguments, measure_all, train

STEPS, EVERY = 150, 5
SUBJECTS, SEEDS, SWEEP_SEED = (400, 401, 402), range(5), 100
PLAIN = "kaiming"
STARTS = {PLAIN: {"lora.init": "kaiming"},
          **{f"ga-{gamma}": {"lora.init": "lora_ga", "lora.ga_gamma": gamma} for gamma in (16.0, 64.0, 256.0)}}  # fmt: skip
RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3)


def run(start, subject, seed, rate):
    settings = {"train.steps": STEPS, "validate.every": EVERY, "validate.stop": False,
                "train.batch_size": 3, "train.schedule": "constant", "train.learning_rate": rate, "train.seed": seed,
                **STARTS[start]}  # fmt: skip
    return f"{start}-{subject}-{seed}-{rate:g}", {"subject": subject, "pictures": 30, "settings": settings}


def measure(options, name, one):
    return account(train(options, name, one))


def curve(result):
    return [(line["step"], line["val_loss"]) for line in result["validations"]]


def steps_to(points, loss):
    """Where the straight lines between the points first come down to `loss`; None: never."""
    for (a, high), (b, low) in zip(points, points[1:]):
        if low <= loss:
            return b if high <= loss else a + (b - a) * (high - loss) / (high - low)
    return None


def best_rate(start, done):
    """The rate of the sweep with the least mean loss at the end."""
    means = {}
    for rate in RATES:
        names = [run(start, subject, SWEEP_SEED, rate)[0] for subject in SUBJECTS]
        if all(name in done for name in names):
            means[rate] = statistics.mean(curve(done[name])[-1][1] for name in names)
            print(f"sweep {start:8} rate {rate:g}: loss at the end {means[rate]:.5f}")
    return min(means, key=means.get)


def report(start, rates, done):
    ratios, own, never, ends = [], [], 0, []
    for subject in SUBJECTS:
        for seed in SEEDS:
            plain = curve(done[run(PLAIN, subject, seed, rates[PLAIN])[0]])
            points = curve(done[run(start, subject, seed, rates[start])[0]])
            steps = steps_to(points, plain[-1][1])
            never += steps is None
            own.append(steps_to(plain, plain[-1][1]) / STEPS)
            ratios.append(steps / STEPS if steps is not None else float("inf"))
            ends.append(points[-1][1] / plain[-1][1])
            print(f"{start} subject {subject} seed {seed}: base {plain[0][1]:.5f}, plain {plain[-1][1]:.5f}, "
                  f"{start} {points[-1][1]:.5f}, there after {steps if steps is None else round(steps, 1)} steps; "
                  f"at step 0 {abs(points[0][1] / plain[0][1] - 1):.1e} from the base")  # fmt: skip
    print(f"{start} at {rates[start]:g} against plain at {rates[PLAIN]:g}: plain LoRA's last loss is reached in "
          f"{len(ratios) - never} of {len(ratios)} runs; steps over plain LoRA's: median {statistics.median(ratios):.2f}, "
          f"from {min(ratios):.2f} to {max(ratios):.2f}, plain LoRA's own {statistics.median(own):.2f}; loss at the end over plain LoRA's: {statistics.mean(ends):.3f}\n")  # fmt: skip


def main():
    options = arguments(__doc__).parse_args()
    options.output = options.output or options.work / "starts.json"
    sweep = [run(start, subject, SWEEP_SEED, rate) for start in STARTS for rate in RATES for subject in SUBJECTS]
    done = measure_all(options, dict(sweep), measure)
    if not done:
        return
    rates = {start: best_rate(start, done) for start in STARTS}
    series = [run(start, subject, seed, rate) for start, rate in rates.items() for subject in SUBJECTS for seed in SEEDS]
    done = measure_all(options, dict(series), measure)
    for start in STARTS:
        if start != PLAIN:
            report(start, rates, done)


if __name__ == "__main__":
    main()
