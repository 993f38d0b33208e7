# SPDX-License-Identifier: Apache-2.0
"""Seconds per training step and peak memory: fluxlora train against diffusers + PEFT, side by side on the CPU.

    python bench/cpu_vs_peft.py [--wide] [--program build/fluxlora] [--rounds 3] [--steps 30]

Both train the same layers ("default") of the same model with the same batch, rank, picture size, text length and
number of threads; latents and text states are ready on both sides. The two alternate, and a figure is the median
over all rounds of the steps after the warm-up. Peak memory is that of the whole process (ru_maxrss): for fluxlora
the whole run with its reading and writing, for the peer Python with torch, the transformer and the adapters alone.
--wide: a random model of width 1024 with 2 double and 4 single blocks instead of the built-in one.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
BATCH, RANK, RESOLUTION, TEXT_TOKENS, WARM_UP = 4, 16, 128, 64, 5

CONFIG = """
[model]
path = "{model}"
text_tokens = {text_tokens}
[subject]
name = "bench"
trigger = "zorbot"
[dataset]
path = "{pictures}"
resolution = {resolution}
cache = "{folder}/cache"
[lora]
rank = {rank}
alpha = {rank}
targets = "default"
[train]
steps = {steps}
batch_size = {batch}
[sample]
every = 0
[output]
path = "{folder}/run-{number}"
checkpoint_every = 0
"""


def run(command):
    """stdout and the peak resident bytes of a process."""
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[0]} failed")
    return output, usage.ru_maxrss * 1024


def ours(options, model, folder, number):
    values = dict(model=model, folder=folder, number=number, pictures=options.pictures, steps=options.steps,
                  batch=BATCH, rank=RANK, resolution=RESOLUTION, text_tokens=TEXT_TOKENS)  # fmt: skip
    config = folder / "bench.toml"
    config.write_text(CONFIG.format(**values))
    _, peak = run([options.program, "train", config, "--device", "cpu", "--threads", options.threads])
    lines = (folder / f"run-{number}" / "metrics.jsonl").read_text().splitlines()
    return [r["seconds"] for r in map(json.loads, lines) if "loss" in r], peak


def theirs(options, model):
    output, peak = run([sys.executable, ROOT / "bench/peft_step.py", model, "--steps", options.steps, "--batch", BATCH,
                        "--rank", RANK, "--grid", RESOLUTION // 16, "--text-tokens", TEXT_TOKENS,
                        "--threads", options.threads])  # fmt: skip
    return json.loads(output)["seconds"], peak


def measure(options, model, folder):
    found = {"fluxlora": ([], []), "diffusers + PEFT": ([], [])}
    ours(options, model, folder, "cache")  # fills the cache, so that every round finds it
    for number in range(options.rounds):
        for name, result in (("fluxlora", ours(options, model, folder, number)),
                             ("diffusers + PEFT", theirs(options, model))):  # fmt: skip
            found[name][0].extend(result[0][WARM_UP:])
            found[name][1].append(result[1])
    return {name: (statistics.median(s), len(s), max(p)) for name, (s, p) in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build" / "fluxlora")
    parser.add_argument("--pictures", type=pathlib.Path, default=ROOT / "assets" / "sample-dataset")
    parser.add_argument("--wide", action="store_true", help="width 1024, 2 double and 4 single blocks")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30, help=f"per round, of which {WARM_UP} warm up")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if os.getloadavg()[0] > 0.5:
        print("warning: other programs are running; the figures mean little", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        folder, model = pathlib.Path(name), ROOT / "assets" / "tiny-flux"
        if options.wide:
            model = folder / "wide"
            subprocess.run([sys.executable, ROOT / "bench/make_random_model.py", model], check=True)
        found = measure(options, model, folder)
    label = "width 1024, 2 double + 4 single blocks" if options.wide else "built-in tiny FLUX"
    print(f"\n{label}; batch {BATCH}, rank {RANK}, {RESOLUTION} px, {TEXT_TOKENS} text tokens, "
          f"{options.threads} threads, f32")  # fmt: skip
    print("\n| | seconds per step | steps | peak memory, MiB |\n|---|---|---|---|")
    for side, (seconds, count, peak) in found.items():
        print(f"| {side} | {seconds:.4f} | {count} | {peak / 2**20:.0f} |")
    (our_time, _, our_peak), (their_time, _, their_peak) = found.values()
    print(f"\n{their_time / our_time:.2f} times faster, {our_peak / their_peak:.2f} of the memory")


if __name__ == "__main__":
    main()
