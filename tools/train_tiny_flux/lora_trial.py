# SPDX-License-Identifier: Apache-2.0
"""Trains LoRAs of the sample dataset's subject with several settings and scores each.

    python lora_trial.py --pipeline ../../assets/tiny-flux --dataset ../../assets/sample-dataset \\
        --output figures --trial rank=8 steps=600 --trial rank=16 steps=600

Regularisation pictures are sampled from the base with --regularisation prompts of training scenes,
or read from DATASET/regularisation where --read-regularisation is given.
"""

import argparse
import json
import math
import pathlib
import time

import torch

import captions
import world
from data import to_signed
from evaluate import read_prompts
from flux_model import Linear, pack
from judge import HERE, load_judge, score, subject_share
from optim import Captured
from pictures import psnr, read_picture, save_grid
from pipeline_files import read_pipeline
from sampling import Sampler, fixed_noise
from states import log

DEFAULTS = {"rank": 8, "alpha": 0, "lr": 3e-3, "steps": 600, "batch": 4, "prior": 0.25, "guidance": 1.0,
            "warmup": 20, "clip": 1.0, "seed": 0, "separate": 0, "beta2": 0.999, "decay": 0.0,
            "pictures": 24}  # fmt: skip


def block_linears(transformer):
    """Every linear layer of the blocks but the modulations, by name."""
    return {n: m for n, m in transformer.named_modules()
            if isinstance(m, Linear) and "blocks." in n and ".norm" not in n}  # fmt: skip


def add_lora(transformer, rank, alpha, seed):
    """LoRA matrices on every block linear as PEFT starts them; returns the list of parameters."""
    generator, found = torch.Generator().manual_seed(seed), []
    for layer in block_linears(transformer).values():
        bound = 1 / math.sqrt(layer.in_features)
        a = (torch.rand(rank, layer.in_features, generator=generator) * 2 - 1) * bound
        layer.lora_A = a.to(layer.weight.device).requires_grad_()
        layer.lora_B = torch.zeros(layer.out_features, rank, device=layer.weight.device, requires_grad=True)
        layer.lora_scale = (alpha or rank) / rank
        found += [layer.lora_A, layer.lora_B]
    return found


def remove_lora(transformer):
    for layer in block_linears(transformer).values():
        layer.lora_A = layer.lora_B = None


class Examples:
    """Latents and text states of subject and regularisation pictures."""

    def __init__(self, sampler, pictures, prompts):
        mean, _ = sampler.models["vae"].encode(to_signed((pictures * 255).round().to(sampler.device)))
        self.latents = pack((mean.float() - sampler.shift) * sampler.scaling)
        self.states, self.pooled = sampler.encode(prompts)


def read_examples(folder):
    """(pictures [N,3,128,128], captions) of a folder of pictures with .txt captions."""
    files = sorted(f for f in pathlib.Path(folder).iterdir() if f.suffix in (".png", ".jpg", ".webp"))
    return torch.stack([read_picture(f) for f in files]), [f.with_suffix(".txt").read_text().strip() for f in files]


def regularisation_prompts(count):
    """Prompts of training scenes, every shape and layout in turn."""
    rng = world.seeded("regularisation")
    writer, found = captions.CaptionWriter(rng, full=True), []
    while len(found) < count:
        scene = world.random_scene(rng, figures=0.0)
        single = len(found) % 4 != 3
        wanted = len(found) % len(world.SHAPES)
        if (len(scene.things) == 1) == single and scene.things[0].kind == wanted:
            found.append(writer.write(scene))
    return found


def train_lora(sampler, subject, prior, trial, device):
    """Trains with one set of settings; returns the mean loss of each tenth of the run."""
    torch.manual_seed(1000 + trial["seed"])
    model = sampler.models["transformer"]
    parameters = add_lora(model, trial["rank"], trial["alpha"], trial["seed"])
    rate = torch.tensor(0.0, device=device)
    adam = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, trial["beta2"]), weight_decay=trial["decay"],
                             capturable=device == "cuda")  # fmt: skip
    total, batch = torch.zeros(1, device=device), trial["batch"]
    count = len(subject.latents), trial["pictures"]

    def step():
        first = torch.randint(count[0], (batch,), device=device)
        second = torch.randint(count[1], (batch,), device=device) + count[0]
        is_prior = torch.rand(1 if trial["separate"] else batch, device=device) < trial["prior"]
        index = torch.where(is_prior, second, first)
        x0 = joined["latents"][index]
        noise, t = torch.randn_like(x0), torch.sigmoid(torch.randn(batch, device=device))
        mixed = (1 - t[:, None, None]) * x0 + t[:, None, None] * noise
        g = torch.full_like(t, trial["guidance"])
        out = model(mixed, joined["states"][index], joined["pooled"][index], t, g)
        loss = (out - (noise - x0)).pow(2).mean()
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters)):
            p.grad = g if p.grad is None else p.grad.copy_(g)
        torch.nn.utils.clip_grad_norm_(parameters, trial["clip"], foreach=True)
        adam.step()
        total.add_(loss.detach())

    joined = {k: torch.cat([getattr(subject, k), getattr(prior, k)]) for k in ("latents", "states", "pooled")}
    run, losses = Captured(step), []
    for i in range(trial["steps"]):
        cosine = 0.5 * (1 + math.cos(math.pi * i / trial["steps"]))
        rate.fill_(trial["lr"] * min(1.0, (i + 1) / trial["warmup"]) * cosine)
        run()
        if (i + 1) % (trial["steps"] // 10) == 0:
            losses.append(round((total / (trial["steps"] // 10)).item(), 4))
            total.zero_()
    return losses


def parse_trial(words):
    """Settings of a trial from words such as rank=8."""
    trial = dict(DEFAULTS)
    for word in words:
        key, value = word.split("=")
        trial[key] = type(DEFAULTS[key])(float(value))
    return trial


class Trials:
    """The fixed parts of every trial: base pictures, prompts, the judge."""

    def __init__(self, sampler, judge, steps, repeats=1):
        self.sampler, self.judge, self.steps = sampler, judge, steps
        prompts, labels = read_prompts("subject")
        self.subject_prompts, self.subject_labels = prompts * repeats, labels.repeat(repeats, 1)
        prompts, labels = read_prompts("other")
        self.other_prompts, self.other_labels = prompts * repeats, labels.repeat(repeats, 1)
        self.count = len(self.subject_prompts)
        self.noise = fixed_noise(self.count + len(self.other_prompts), 7)
        self.before = self.pictures()

    def pictures(self):
        return self.sampler.sample(self.subject_prompts + self.other_prompts, self.noise, 3.5, self.steps)

    def figures(self, after):
        """What a trained LoRA reaches on the subject's prompts (first) and on others (last)."""
        said_before, said, n = self.judge.answers(self.before), self.judge.answers(after), self.count
        return {
            "subject": round(subject_share(said[:n]), 3),
            "subject before": round(subject_share(said_before[:n]), 3),
            "subject prompts": score(said[:n], self.subject_labels),
            "other PSNR": round(psnr(after[n:], self.before[n:]).mean().item(), 2),
            "other PSNR least": round(psnr(after[n:], self.before[n:]).min().item(), 2),
            "other shape unchanged": round((said[n:, 4] == said_before[n:, 4]).float().mean().item(), 3),
            "other prompts": score(said[n:], self.other_labels),
        }


def make_regularisation(sampler, count, folder):
    """Samples regularisation pictures from the base; writes them as PNG with .txt where folder is given."""
    prompts = regularisation_prompts(count)
    pictures = sampler.sample(prompts, fixed_noise(count, 11), 3.5, 20)
    if folder:
        from PIL import Image

        from pictures import to_bytes

        folder.mkdir(parents=True, exist_ok=True)
        for i, (tile, prompt) in enumerate(zip(to_bytes(pictures), prompts), 1):
            Image.fromarray(tile).save(folder / f"base_{i:02d}.png")
            (folder / f"base_{i:02d}.txt").write_text(prompt + "\n", encoding="utf-8")
    return pictures, prompts


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", type=pathlib.Path, required=True)
    parser.add_argument("--dataset", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--judge", type=pathlib.Path, default=HERE / "judges/judge.safetensors")
    parser.add_argument("--regularisation", type=int, default=24)
    parser.add_argument("--write-regularisation", action="store_true")
    parser.add_argument("--steps", type=int, default=16, help="sampling steps")
    parser.add_argument("--repeats", type=int, default=1, help="pictures of each prompt, with other noise")
    parser.add_argument("--trial", nargs="*", action="append", default=[])
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models, scaling, shift = read_pipeline(options.pipeline, device)
    sampler = Sampler(models, scaling, shift, options.pipeline, device)
    folder = options.dataset / "regularisation" if options.write_regularisation else None
    prior = Examples(sampler, *make_regularisation(sampler, options.regularisation, folder))
    subject = Examples(sampler, *read_examples(options.dataset))
    trials = Trials(sampler, load_judge(options.judge, device), options.steps, options.repeats)
    save_grid(options.output / "lora_before.png", trials.before, 10)
    for number, words in enumerate(options.trial):
        begin, trial = time.time(), parse_trial(words)
        losses = train_lora(sampler, subject, prior, trial, device)
        spent, after = time.time() - begin, trials.pictures()
        remove_lora(models["transformer"])
        save_grid(options.output / f"lora_{number:02d}.png", after, 10)
        log(options.output, f"lora {number}", settings=" ".join(words), seconds=round(spent, 1),
            losses=losses, **trials.figures(after))  # fmt: skip


if __name__ == "__main__":
    main()
