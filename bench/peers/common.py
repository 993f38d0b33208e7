# SPDX-License-Identifier: Apache-2.0
"""What the scripts of this folder share: options, random inputs, the measured loop, one JSON object on stdout."""

import argparse
import json
import statistics
import time

import torch

WARM_UP = 3


def parser(doc):
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cuda")
    for name, default, what in (("steps", 20, "to take the median of"), ("batch", 1, "pictures a step"),
                                ("side", 64, "a picture's side in tokens: 64 for 1024 pixels, 32 for 512"),
                                ("text-tokens", 512, "text tokens"), ("rank", 16, "of the adapters"),
                                ("double", 19, "double-stream blocks"), ("single", 38, "single-stream blocks"),
                                ("heads", 24, "heads, of width 128")):  # fmt: skip
        p.add_argument(f"--{name}", type=int, default=default, help=what)
    return p


def inputs(options):
    """x0, noise, text states, pooled text, the places (tokens, 3) of picture and text, and a guidance of 1 in f32."""
    device, B, N = options.device, options.batch, options.side**2
    y, x = torch.meshgrid(*[torch.arange(options.side, device=device)] * 2, indexing="ij")
    return {"x0": torch.randn(B, N, 64, device=device), "noise": torch.randn(B, N, 64, device=device),
            "txt": torch.randn(B, options.text_tokens, 4096, device=device),
            "pooled": torch.randn(B, 768, device=device),
            "image_ids": torch.stack([torch.zeros_like(x), y, x], -1).reshape(N, 3).float(),
            "text_ids": torch.zeros(options.text_tokens, 3, device=device),
            "guidance": torch.ones(B, device=device)}  # fmt: skip


def noisy(batch):
    """x_t, t, noise - x0 at times as the scripts of the peers draw them."""
    t = torch.sigmoid(torch.randn(batch["x0"].shape[0], device=batch["x0"].device))
    w = t.view(-1, 1, 1)
    return (1 - w) * batch["x0"] + w * batch["noise"], t, batch["noise"] - batch["x0"]


def measure(options, parameters, predict):
    """Times steps of forward, loss, backward, clipping and AdamW. `predict()` gives the prediction and its target.

    The result says seconds a step (each one waited for), and the peak of what PyTorch allocated and what it held in
    MiB, beside what the driver says that the process took.
    """
    gpu = torch.device(options.device).type == "cuda"
    wait = torch.cuda.synchronize if gpu else (lambda: None)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, fused=gpu)
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(WARM_UP + options.steps):
        wait()
        start = time.perf_counter()
        prediction, target = predict()
        loss = (prediction.float() - target).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wait()
        seconds.append(time.perf_counter() - start)
    measured = seconds[WARM_UP:]
    result = {"device": torch.cuda.get_device_name() if gpu else "cpu", "torch": torch.__version__,
              "batch": options.batch, "picture_tokens": options.side**2, "text_tokens": options.text_tokens,
              "rank": options.rank, "parameters": sum(p.numel() for p in parameters), "loss": float(loss.detach()),
              "steps": options.steps, "median_seconds": statistics.median(measured), "best_seconds": min(measured),
              "worst_seconds": max(measured), "first_seconds": seconds[0]}  # fmt: skip
    if gpu:
        free, total = torch.cuda.mem_get_info()
        result |= {"allocated_mib": torch.cuda.max_memory_allocated() >> 20,
                   "reserved_mib": torch.cuda.max_memory_reserved() >> 20, "gpu_mib": (total - free) >> 20}  # fmt: skip
    return result


def report(result):
    print(json.dumps(result), flush=True)
