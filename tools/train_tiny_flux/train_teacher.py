# SPDX-License-Identifier: Apache-2.0
"""Stage 3: trains the transformer with both text encoders on latents (flow matching, guidance input 1).

    python train_teacher.py --state state --pipeline ../../assets/tiny-flux --minutes 9 --resume
"""

import argparse
import math
import pathlib
import time

import torch
from safetensors.torch import load_file, save_file

from data import latents_of, make_scenes
from optim import Captured, Clock, FlatOptimizer, prepare_device
from pipeline_files import build_models, read_pipeline
from states import load_modules, load_vae, log, save_modules
from tokens import encode_captions

PARTS = ["transformer", "text_encoder", "text_encoder_2"]
LENGTHS = {64: 1.0, 128: 0.5, 512: 0.25}  # text length and its share of the batch
CHANCES = [0.8, 0.1, 0.1]


def is_hidden(name, parameter):
    """Muon updates the matrices inside blocks, except modulations and tables."""
    inside = "blocks." in name or "layers." in name or "block." in name
    outside = ".norm1" in name or ".norm." in name or "relative_attention_bias" in name
    return parameter.ndim == 2 and inside and not outside


def compile_blocks(models):
    """Compiles each kind of block once per text length."""
    torch._dynamo.config.recompile_limit = 64
    model, clip, t5 = (models[p] for p in PARTS)
    blocks = [*model.transformer_blocks, *model.single_transformer_blocks,
              *clip.text_model.encoder.layers, *t5.encoder.block]  # fmt: skip
    for block in blocks:
        block.forward = torch.compile(block.forward, dynamic=False)


def draw_times(count, device, mean=0.3, deviation=1.1):
    """Stratified logit-normal flow times [count]."""
    u = (torch.arange(count, device=device) + torch.rand(count, device=device)) / count
    normal = torch.erfinv((2 * u - 1).clamp(-0.999999, 0.999999)) * math.sqrt(2)
    return torch.sigmoid(mean + deviation * normal)


class TrainingSet:
    """Latents, coverage and caption ids on the device; draws batches."""

    def __init__(self, options, vae, scaling, shift, device):
        rows, _, clip, t5 = make_scenes(
            options.world, options.scenes, ("teacher", options.seed), options.captions, options.pipeline,
            options.workers)  # fmt: skip
        self.latents, cover = latents_of(vae, rows, scaling, shift, device)
        self.weights = 1 + (options.object_weight - 1) * (cover.float() / 255)
        self.clip, self.t5 = (torch.from_numpy(a).to(device) for a in (clip, t5))
        self.empty = [torch.from_numpy(a[0]).to(device) for a in encode_captions(options.pipeline, [""])]

    def text(self, index, length, drop):
        """(CLIP ids, T5 ids padded to length) of scenes index; a share drop of captions is emptied."""
        count = len(index)
        which = torch.randint(self.clip.shape[1], (count,), device=index.device)
        gone = torch.rand(count, 1, device=index.device) < drop
        clip = torch.where(gone, self.empty[0], self.clip[index, which]).long()
        t5 = torch.where(gone, self.empty[1], self.t5[index, which]).long()
        return clip, torch.nn.functional.pad(t5, (0, length - t5.shape[1]))


def make_step(models, optimizer, data, batch, length, losses, slot, dtype):
    """A function that takes one training step at one text length; its loss is added to losses[slot]."""
    model, clip, t5 = (models[p] for p in PARTS)
    device = data.latents.device

    def step():
        index = torch.randint(len(data.latents), (batch,), device=device)
        x0 = data.latents[index].float()
        noise, t = torch.randn_like(x0), draw_times(batch, device)
        mixed = (1 - t[:, None, None]) * x0 + t[:, None, None] * noise
        clip_ids, t5_ids = data.text(index, length, 0.1)
        out = model(mixed.to(dtype), t5(t5_ids, dtype), clip(clip_ids, dtype), t, torch.ones_like(t))
        error = (out.float() - (noise - x0)).pow(2).mean(-1)
        weight = data.weights[index]
        optimizer.gradients((weight * error).sum() / weight.sum())
        optimizer.step()
        losses[slot] += error.detach().mean()
        losses[-1] += slot == 0

    return step


def train(options, models, optimizer, data, device, dtype):
    """Runs the clock down; returns the log."""
    losses = torch.zeros(2, device=device)
    steps = build_steps(options, models, optimizer, data, losses, dtype)
    total = torch.zeros(1, device=device)
    generator = torch.Generator().manual_seed(options.seed)
    clock = Clock(options.minutes, warmup=options.warmup, hold=options.hold, report=options.report)
    while clock.running():
        optimizer.rate.fill_(clock.share())
        which = int(torch.multinomial(torch.tensor(CHANCES), 1, generator=generator))
        which *= time.time() - clock.begin > options.short_seconds
        steps[which]()
        total.copy_(losses[:1] / losses[1].clamp(min=1) * clock.report)
        clock.tick(total)
        if clock.done % clock.report == 0:
            losses.zero_()
        if options.save_every and clock.done % options.save_every == 0:
            save(options, models, optimizer)
    return clock


def build_steps(options, models, optimizer, data, losses, dtype):
    """One captured training step for each text length."""
    return [
        Captured(make_step(models, optimizer, data, max(1, int(options.batch * share)), length, losses,
                           0 if length == 64 else 1, dtype))
        for length, share in LENGTHS.items()
    ]  # fmt: skip


def warm_up(options, models, optimizer, data, dtype):
    """Takes one step of each kind, to fill the compiler's cache while the device is busy otherwise."""
    for step in build_steps(options, models, optimizer, data, torch.zeros(2, device=data.latents.device), dtype):
        step.step()


def save(options, models, optimizer):
    """Writes the averaged weights and what continuing needs."""
    parts = {p: dict(models[p].state_dict()) for p in PARTS}
    for name, tensor in optimizer.averaged().items():
        prefix, rest = name.split(".", 1)
        parts[prefix][rest] = tensor
    save_modules(options.state / "teacher.safetensors", parts)
    state = {k: v.cpu().contiguous() for k, v in optimizer.resume_state().items()}
    save_file(state, options.state / "teacher_resume.safetensors")


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=pathlib.Path, required=True)
    parser.add_argument("--pipeline", type=pathlib.Path, required=True, help="folder with the tokenizers")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--resume", action="store_true", help="continue from STATE/teacher_resume.safetensors")
    parser.add_argument("--init", type=pathlib.Path, help="pipeline folder whose weights training starts from")
    parser.add_argument("--world", choices=["train", "figures"], default="train")
    parser.add_argument("--short-seconds", type=float, default=0, help="use 64 text tokens alone for so long")
    parser.add_argument("--batch", type=int, default=384, help="pictures a step at 64 text tokens")
    parser.add_argument("--scenes", type=int, default=196608)
    parser.add_argument("--captions", type=int, default=3, help="captions of each scene")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--muon-lr", type=float, default=2.5e-3)
    parser.add_argument("--object-weight", type=float, default=2.0)
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--hold", type=float, default=0.6, help="share of the time before the rate falls to zero")
    parser.add_argument("--report", type=int, default=500)
    parser.add_argument("--save-every", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--warm", action="store_true", help="only compile, with random weights")
    return parser.parse_args()


def main():
    options = parse()
    models = build_models()
    if options.init:
        models, scaling, shift = read_pipeline(options.init)
        for part in PARTS:
            models[part].requires_grad_(True)
    else:
        scaling, shift = (1.0, 0.0) if options.warm else load_vae(options.state, models["vae"])
    device, dtype = prepare_device()
    for model in models.values():
        model.to(device)
    torch.manual_seed(2 + options.seed)
    data = TrainingSet(options, models["vae"].requires_grad_(False), scaling, shift, device)
    named = [(f"{part}.{n}", p) for part in PARTS for n, p in models[part].named_parameters()
             if "guidance_embedder" not in n]  # the student alone learns guidance  # fmt: skip
    optimizer = FlatOptimizer(named, is_hidden, options.lr, options.muon_lr)
    if options.resume and (options.state / "teacher_resume.safetensors").exists():
        optimizer.load_resume_state(load_file(options.state / "teacher_resume.safetensors"))
    if device == "cuda" and not options.no_compile:
        compile_blocks(models)
    print(f"{len(data.latents)} scenes ready", flush=True)
    if options.warm:
        return warm_up(options, models, optimizer, data, dtype)
    clock = train(options, models, optimizer, data, device, dtype)
    save(options, models, optimizer)
    log(options.state, "teacher", steps=clock.done, minutes=options.minutes, batch=options.batch, losses=clock.log)


if __name__ == "__main__":
    main()
