# SPDX-License-Identifier: Apache-2.0
"""Stage 1: trains the autoencoder on rendered scenes and clutter, then measures its latents.

    python train_vae.py --state state --minutes 4.5
"""

import argparse
import json
import pathlib

import torch
import torch.nn.functional as F

import vae_model
from data import draw, make_scenes, to_signed
from optim import Captured, Clock, FlatOptimizer, prepare_device
from pictures import psnr, save_grid
from states import log, save_modules
from vae_model import Autoencoder


def is_hidden(name, parameter):
    """Muon updates every convolution and matrix but the first and last."""
    return parameter.ndim >= 2 and "conv_in" not in name and "decoder.conv_out" not in name


def picture_loss(out, x):
    """L1 + 2 MSE + 0.5 L1 of differences of neighbours + 0.5 L1 at a quarter of the size."""
    d = (out - x).float()
    edges = (d[..., 1:] - d[..., :-1]).abs().mean() + (d[..., 1:, :] - d[..., :-1, :]).abs().mean()
    return d.abs().mean() + 2 * d.pow(2).mean() + 0.25 * edges + 0.5 * F.avg_pool2d(d, 4).abs().mean()


def make_step(vae, optimizer, pictures, options, losses, dtype):
    """A function that takes one training step on a random batch of pictures."""
    def step():
        index = torch.randint(len(pictures), (options.batch,), device=pictures.device)
        x = to_signed(pictures[index], dtype).contiguous(memory_format=torch.channels_last)
        mean, log_variance = vae.encode(x)
        mean, log_variance = mean.float(), log_variance.float()
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        kl = 0.5 * (mean.pow(2) + log_variance.exp() - 1 - log_variance).mean()
        picture = picture_loss(vae.decode(z.to(dtype)), x)
        optimizer.gradients(picture + options.kl * kl)
        optimizer.step()
        losses.add_(torch.stack([picture.detach(), kl.detach()]))

    return step


@torch.no_grad()
def measure(vae, device, output, count=200):
    """Mean PSNR in dB on scenes, clutter and the subject; writes a grid of originals over copies."""
    found, shown = {}, []
    for kind in ("train", "clutter", "judge"):
        rows, labels, _, _ = make_scenes(kind, count if kind != "judge" else 8 * count, "vae test")
        rows = rows[labels[:, 4] == 9][:count] if kind == "judge" else rows
        x = to_signed(draw(rows, device)[0])
        copies = torch.cat([vae.decode(vae.encode(part)[0]) for part in x.split(100)])
        a, b = (x + 1) / 2, ((copies + 1) / 2).clamp(0, 1)
        found["subject" if kind == "judge" else kind] = round(psnr(a, b).mean().item(), 2)
        shown += [a[:12], b[:12]]
    save_grid(output, torch.cat(shown), 12)
    return found


@torch.no_grad()
def latent_numbers(vae, pictures):
    """(scaling, shift, standard deviation of each channel) of posterior means."""
    means = torch.cat([vae.encode(to_signed(p))[0] for p in pictures[:4096].split(256)])
    return 1 / means.std().item(), means.mean().item(), [round(s, 3) for s in means.std(dim=(0, 2, 3)).tolist()]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=pathlib.Path, required=True)
    parser.add_argument("--minutes", type=float, default=4.5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--scenes", type=int, default=65536)
    parser.add_argument("--clutter", type=int, default=28672)
    parser.add_argument("--kl", type=float, default=1.5e-3)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--muon-lr", type=float, default=3e-3)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    options.state.mkdir(parents=True, exist_ok=True)
    scenes = make_scenes("train", options.scenes, "vae", workers=options.workers)[0]
    clutter = make_scenes("clutter", options.clutter, "vae", workers=options.workers)[0]
    device, dtype = prepare_device()
    torch.manual_seed(1)
    if device == "cuda":
        vae_model.compile_norms()
    clock = Clock(options.minutes, warmup=200, hold=0.5)
    pictures = torch.cat([draw(scenes, device)[0], draw(clutter, device)[0]])
    print(f"{len(pictures)} pictures drawn", flush=True)
    vae = Autoencoder().to(device)
    optimizer = FlatOptimizer(list(vae.named_parameters()), is_hidden, options.lr, options.muon_lr,
                              betas=(0.9, 0.99), decay=0.01, ema=0.998)  # fmt: skip
    losses = torch.zeros(2, device=device)
    step = Captured(make_step(vae, optimizer, pictures, options, losses, dtype))
    while clock.running():
        optimizer.rate.fill_(clock.share())
        step()
        clock.tick(losses)
    optimizer.bind(optimizer.ema)
    vae.requires_grad_(False)
    vae_model.FAST["normed_silu"] = vae_model.normed_silu
    scaling, shift, deviations = latent_numbers(vae, pictures)
    (options.state / "latents.json").write_text(json.dumps({"scaling": round(scaling, 4), "shift": round(shift, 4)}))
    save_modules(options.state / "vae.safetensors", {"vae": dict(vae.named_parameters())})
    figures = measure(vae, device, options.state / "grids/vae.png")
    log(options.state, "vae", steps=clock.done, psnr=figures, scaling=scaling, shift=shift,
        channel_deviation=deviations, losses=clock.log)  # fmt: skip


if __name__ == "__main__":
    main()
