# SPDX-License-Identifier: Apache-2.0
"""Runs of the built-in model on drawn subjects (tiny_subjects.py), for the measurements of this folder."""

import argparse
import json
import os
import pathlib
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from tiny_subjects import TRIGGER, make_subject

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Small enough for a CPU: 64 image tokens, 32 text tokens, two pictures a step.
BASE = {"lora.rank": 8, "lora.alpha": 8, "train.batch_size": 2, "train.caption_dropout": 0.0, "train.weight_decay": 0.0,
        "model.text_tokens": 32, "sample.every": 0, "sample.steps": 8, "output.checkpoint_every": 0, "output.keep": 1,
        "validate.every": 20}  # fmt: skip
REGULARISATION = ROOT / "assets/sample-dataset/regularisation"


def toml(value):
    return f'"{value}"' if isinstance(value, str) else json.dumps(value)


def subject_folder(work, run):
    return pathlib.Path(work) / "subjects" / f"{run['subject']}-{run['pictures']}"


def call(options, command, *arguments):
    """The standard output of the program, which has one thread: many runs share the machine."""
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    done = subprocess.run([options.program, command, *map(str, arguments), "--device", options.device, "--threads", "1"],
                          capture_output=True, text=True, env={**os.environ, **threads})  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{command} {arguments[0]}: {done.stderr[-600:]}")
    return done.stdout


def train(options, name, run):
    """Trains `run` = {subject, pictures, trigger, regularisation, settings}, or what is left of it; its folder.

    A run with `defaults` has every default of the program in place of BASE."""
    folder = options.work / "runs" / name
    pictures = make_subject(subject_folder(options.work, run), run["subject"], run["pictures"])
    config = options.work / f"{name}.toml"
    folders = f'[[dataset.folders]]\npath = "{pictures.resolve()}"\nrepeats = 3\n'
    if run.get("regularisation"):
        folders += f'[[dataset.folders]]\npath = "{REGULARISATION}"\nregularisation = true\n'
    config.write_text(
        f'[model]\npath = "tiny"\n[subject]\nname = "run"\ntrigger = "{run.get("trigger", TRIGGER)}"\n'
        f'[dataset]\ncache = "{(options.work / "cache" / name).resolve()}"\n{folders}'
    )
    settings = {**({} if run.get("defaults") else BASE), **run.get("settings", {}), "output.path": str(folder)}
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={toml(value)}")]
    call(options, "train", config, "--resume", *sets)
    return folder


def metrics(path):
    """The lines of a metrics.jsonl that are steps, and those that are validations."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if "loss" in line], [line for line in lines if "val_loss" in line]


def account(folder):
    """What a run left of itself: validations, the steps' losses and seconds, the seconds of all validations."""
    steps, validations = metrics(folder / "metrics.jsonl")
    told = [line.split() for line in (folder / "log.txt").read_text().splitlines() if "validation took" in line]
    return {"validations": validations, "losses": [step["loss"] for step in steps],
            "seconds_of_steps": sum(step["seconds"] for step in steps),
            "seconds_of_validation": sum(float(words[words.index("took") + 1]) for words in told)}  # fmt: skip


def evaluate(options, folder):
    """What `fluxlora evaluate --json` says of a run."""
    return json.loads(call(options, "evaluate", folder, "--json"))


def arguments(description, sets=()):
    """The command line that the measurements share; `sets` are the names of their lists of runs, "judged" among them."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/fluxlora")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, help="results; default: WORK/SCRIPT.json; what it has is not done again")
    if sets:
        parser.add_argument("--set", dest="sets", nargs="+", choices=sets, default=["judged"])
    parser.add_argument("--only", help="names of runs, such as stop-3,stop-7")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, each with one thread")
    parser.add_argument("--subjects-only", action="store_true", help="draw the pictures, which needs PyTorch, and end")
    return parser


class Results:
    """A JSON file {run: result} that is whole after every run."""

    def __init__(self, path):
        self.path, self.lock = path, threading.Lock()
        self.all = json.loads(path.read_text()) if path.exists() else {}

    def add(self, name, result):
        with self.lock:
            self.all[name] = result
            beside = self.path.with_suffix(".part")
            beside.write_text(json.dumps(self.all, indent=1))
            beside.replace(self.path)


def measure_all(options, runs, measure):
    """{name: measure(options, name, run)} of the chosen runs, options.jobs at a time; a run that fails leaves `error`."""
    if options.only:
        runs = {name: runs[name] for name in options.only.split(",")}
    options.work.mkdir(parents=True, exist_ok=True)
    for run in runs.values():
        make_subject(subject_folder(options.work, run), run["subject"], run["pictures"])
    if options.subjects_only:
        return {}
    results = Results(options.output)

    def one(item):
        name, run = item
        if "error" not in results.all.get(name, {"error": "not done"}):
            return
        begin = time.monotonic()
        try:
            result = measure(options, name, run)
        except (RuntimeError, OSError, ValueError) as error:
            result = {"error": str(error)}
        results.add(name, {"run": run, **result, "seconds": time.monotonic() - begin})
        print(f"{name}: {result.get('error', 'done')}, {time.monotonic() - begin:.0f} s", flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(one, runs.items()))
    return {name: results.all[name] for name in runs if "error" not in results.all[name]}
