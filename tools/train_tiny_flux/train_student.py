# SPDX-License-Identifier: Apache-2.0
"""Stage 4: guidance distillation. The student at guidance g learns u + g (c - u) of the frozen teacher.

    python train_student.py --state state --pipeline ../../assets/tiny-flux --minutes 1.5
"""

import copy

import torch

import train_teacher
from optim import Captured, Clock, FlatOptimizer, prepare_device
from pipeline_files import build_models
from states import load_modules, load_vae, log, save_modules
from train_teacher import CHANCES, LENGTHS, PARTS, TrainingSet, compile_blocks, draw_times, is_hidden


def draw_guidance(count, device):
    """Guidance [count]: a quarter is 1, the rest uniform in 1..6."""
    g = 1 + 5 * torch.rand(count, device=device)
    return torch.where(torch.rand(count, device=device) < 0.25, 1.0, g)


def make_step(teacher, student, texts, optimizer, data, batch, length, losses, dtype):
    """A function that takes one distillation step at one text length."""
    clip, t5 = texts
    device = data.latents.device

    @torch.no_grad()
    def target():
        index = torch.randint(len(data.latents), (batch,), device=device)
        x0 = data.latents[index].float()
        t = draw_times(batch, device)
        mixed = ((1 - t[:, None, None]) * x0 + t[:, None, None] * torch.randn_like(x0)).to(dtype)
        clip_ids, t5_ids = data.text(index, length, 0.05)
        none_clip, none_t5 = data.text(index, length, 1.0)
        states, pooled = t5(torch.cat([t5_ids, none_t5]), dtype), clip(torch.cat([clip_ids, none_clip]), dtype)
        out = teacher(mixed.repeat(2, 1, 1), states, pooled, t.repeat(2), torch.ones(2 * batch, device=device))
        c, u = out.float().chunk(2)
        g = draw_guidance(batch, device)
        return mixed, states[:batch], pooled[:batch], t, g, u + g[:, None, None] * (c - u), data.weights[index]

    def step():
        mixed, states, pooled, t, g, wanted, weight = target()
        error = (student(mixed, states, pooled, t, g).float() - wanted).pow(2).mean(-1)
        optimizer.gradients((weight * error).sum() / weight.sum())
        optimizer.step()
        losses.add_(error.detach().mean())

    return step


def main():
    options = train_teacher.parse()
    models = build_models()
    scaling, shift = 1.0, 0.0
    if not options.warm:
        scaling, shift = load_vae(options.state, models["vae"])
        load_modules(options.state / "teacher.safetensors", models, PARTS)
    device, dtype = prepare_device()
    for model in models.values():
        model.to(device).requires_grad_(False)
    torch.manual_seed(3 + options.seed)
    data = TrainingSet(options, models["vae"], scaling, shift, device)
    student = copy.deepcopy(models["transformer"]).requires_grad_(True)
    if device == "cuda" and not options.no_compile:
        compile_blocks(models)
        compile_blocks({**models, "transformer": student})
    optimizer = FlatOptimizer(list(student.named_parameters()), is_hidden, options.lr, options.muon_lr, ema=0.998)
    losses = torch.zeros(1, device=device)
    texts = models["text_encoder"], models["text_encoder_2"]
    steps = [Captured(make_step(models["transformer"], student, texts, optimizer, data,
                                max(1, int(options.batch * share)), length, losses, dtype))
             for length, share in LENGTHS.items()]  # fmt: skip
    if options.warm:
        for step in steps:
            step.step()
        return
    generator = torch.Generator().manual_seed(options.seed)
    clock = Clock(options.minutes, warmup=100, hold=0.4, report=options.report)
    while clock.running():
        optimizer.rate.fill_(clock.share())
        steps[int(torch.multinomial(torch.tensor(CHANCES), 1, generator=generator))]()
        clock.tick(losses)
    save_modules(options.state / "student.safetensors", {"transformer": optimizer.averaged()})
    log(options.state, "student", steps=clock.done, minutes=options.minutes, batch=options.batch, losses=clock.log)


if __name__ == "__main__":
    main()
