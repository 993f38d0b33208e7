# SPDX-License-Identifier: Apache-2.0
"""Scores a model on the 200 held-out prompts, and writes grids.

    python evaluate.py --pipeline ../../assets/tiny-flux --output figures            # the shipped folder
    python evaluate.py --pipeline ../../assets/tiny-flux --state state --output ...  # a training state
"""

import argparse
import json
import pathlib

import torch

from judge import HERE, judge_renders, load_judge, score, shape_table
from pictures import psnr, save_grid
from pipeline_files import build_models, read_pipeline
from sampling import Sampler, fixed_noise
from states import load_modules, load_vae, log
from train_teacher import PARTS
from train_vae import measure


def read_prompts(name):
    """(prompts, labels [N,8]) of a prompt list beside this script."""
    items = json.loads((HERE / f"{name}_prompts.json").read_text())
    return [i["prompt"] for i in items], torch.tensor([i["labels"] for i in items])


def load(options, device):
    """The models on device, scaling and shift: from the pipeline folder or a training state."""
    if not options.state:
        return read_pipeline(options.pipeline, device)
    models = build_models()
    scaling, shift = load_vae(options.state, models["vae"])
    load_modules(options.state / "teacher.safetensors", models, PARTS)
    if options.model == "student":
        load_modules(options.state / "student.safetensors", models, ["transformer"])
    for model in models.values():
        if options.round:
            model.bfloat16().float()
        model.to(device).requires_grad_(False)
    return models, scaling, shift


def runs(options):
    """{name: arguments of Sampler.sample} of what is scored."""
    if options.model == "teacher":
        return {"no guidance": {"guidance": 1.0}, "CFG 3": {"cfg": 3.0}}
    found = {f"g {g}": {"guidance": g} for g in options.guidance}
    for length in (128, 512):
        found[f"g 3.5, {length} tokens"] = {"guidance": 3.5, "length": length}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", type=pathlib.Path, required=True)
    parser.add_argument("--state", type=pathlib.Path)
    parser.add_argument("--model", choices=["teacher", "student"], default="student")
    parser.add_argument("--judge", type=pathlib.Path, default=HERE / "judges/judge.safetensors")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--guidance", type=float, nargs="*", default=[1.0, 2.0, 3.5, 5.0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--round", action="store_true", help="round the state's weights to bf16, as shipped")
    parser.add_argument("--full", action="store_true", help="also the VAE and the judge on renders")
    parser.add_argument("--no-prompts", action="store_true", help="with --full: nothing but those two")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models, scaling, shift = load(options, device)
    sampler, judge = Sampler(models, scaling, shift, options.pipeline, device), load_judge(options.judge, device)
    prompts, labels = read_prompts("held_out")
    prompts, labels = prompts[: options.count], labels[: options.count]
    noise, first, figures = fixed_noise(len(prompts)), None, {}
    for name, settings in ({} if options.no_prompts else runs(options)).items():
        pictures = sampler.sample(prompts, noise, steps=options.steps, **settings)
        answers = judge.answers(pictures)
        figures[name] = score(answers, labels)
        if first is None:
            first = pictures
        else:
            figures[name]["PSNR to the first row"] = round(psnr(pictures, first).mean().item(), 2)
        if settings.get("guidance") == 3.5 or "cfg" in settings:
            figures[name]["shapes"] = shape_table(answers, labels)
        save_grid(options.output / f"{options.model}_{name.replace(' ', '_').replace(',', '')}.png", pictures[:48], 12)
        print(name, figures[name], flush=True)
    if options.full:
        figures["VAE PSNR"] = measure(models["vae"], device, options.output / "vae.png")
        figures["judge on renders"] = judge_renders(judge)
        print(figures["VAE PSNR"], figures["judge on renders"])
    log(options.output, f"evaluate {options.model}", figures=figures)


if __name__ == "__main__":
    main()
