# SPDX-License-Identifier: Apache-2.0
"""Runs of the built-in model on drawn subjects (tiny_subjects.py), for the measurements of this folder."""

import argparse
import json
import pathlib
import subprocess

from tiny_subjects import TRIGGER, make_subject

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Small enough for a CPU: 64 image tokens, 32 text tokens, two pictures a step.
BASE = {"lora.rank": 8, "lora.alpha": 8, "train.batch_size": 2, "train.caption_dropout": 0.0, "train.weight_decay": 0.0,
        "model.text_tokens": 32, "sample.every": 0, "sample.steps": 8, "output.checkpoint_every": 0, "output.keep": 1,
        "validate.every": 20}  # fmt: skip
REGULARISATION = ROOT / "assets/sample-dataset/regularisation"


def toml(value):
    return f'"{value}"' if isinstance(value, str) else json.dumps(value)


def run_folder(work, name):
    return pathlib.Path(work) / "runs" / name


def train(program, work, name, run, threads=1):
    """Trains `run` = {subject, pictures, trigger, regularisation, settings}, or what is left of it; its folder."""
    folder = run_folder(work, name)
    pictures = make_subject(pathlib.Path(work) / f"subject-{run['subject']}-{run['pictures']}", run["subject"],
                            run["pictures"])  # fmt: skip
    config = pathlib.Path(work) / f"{name}.toml"
    folders = f'[[dataset.folders]]\npath = "{pictures.resolve()}"\nrepeats = 3\n'
    if run.get("regularisation"):
        folders += f'[[dataset.folders]]\npath = "{REGULARISATION}"\nregularisation = true\n'
    config.write_text(
        f'[model]\npath = "tiny"\n[subject]\nname = "run"\ntrigger = "{run.get("trigger", TRIGGER)}"\n'
        f'[dataset]\ncache = "{(pathlib.Path(work) / "cache").resolve()}"\n{folders}'
    )
    command = [program, "train", str(config), "--resume", "--device", "cpu", "--threads", str(threads)]
    for key, value in {**BASE, **run.get("settings", {}), "output.path": str(folder)}.items():
        command += ["--set", f"{key}={toml(value)}"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return folder


def history(metrics):
    """[(step, validation loss)] of a metrics.jsonl."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [(line["step"], line["val_loss"]) for line in lines if "val_loss" in line]


def evaluate(program, folder, threads=1):
    """What `fluxlora evaluate --json` says of a run."""
    answer = subprocess.run([program, "evaluate", str(folder), "--json", "--device", "cpu", "--threads", str(threads)],
                            check=True, capture_output=True, text=True)  # fmt: skip
    return json.loads(answer.stdout)


def options_and_chosen(description, judged, tuning):
    """The command line that the measurements share, and the runs of the list that it names."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--program", default="build/fluxlora")
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--set", choices=["judged", "tuning"], default="judged")
    parser.add_argument("--only", help="numbers of runs, such as 0,3")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    chosen = list(judged if options.set == "judged" else tuning)
    if options.only:
        chosen = [chosen[int(i)] for i in options.only.split(",")]
    return options, chosen
