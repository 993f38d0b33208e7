# SPDX-License-Identifier: Apache-2.0
"""A whole run of FLUX.1-dev's size through `fluxlora train`, measured from outside.

    python tests/gpu/full_run.py FLUXLORA MODEL [--precision fp8] [--steps 100] [--vram 16GiB] [--again]

MODEL is what bench/make_random_model.py --size flux wrote. 30 pictures of 1024x1024 are made. Judged: the run ends well,
no loss is NaN, and diffusers takes the LoRA. Told: seconds from start to first step, seconds a step, peak memory of
GPU and host. --again runs it twice and compares the files byte by byte.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import threading
import time

import numpy as np
import pynvml
from PIL import Image

CONFIG = """
[model]
path = "{model}"
precision = "{precision}"
[subject]
name = "full"
trigger = "zorbot"
[dataset]
path = "{pictures}"
resolution = 1024
[lora]
rank = 16
alpha = 16
[train]
steps = {steps}
learning_rate = 1e-4
[sample]
every = 0
[output]
metadata_dates = false
"""


def make_pictures(folder):
    """30 smooth coloured pictures with captions, different each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    for i in range(30):
        small = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        noise = rng.integers(-12, 13, (1024, 1024, 3))
        pixels = np.asarray(small.resize((1024, 1024), Image.Resampling.BICUBIC)).astype(int) + noise
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:02}.png", compress_level=1)
        (folder / f"{i:02}.txt").write_text(f"a zorbot in a garden, number {i}")


def host_memory(pid):
    """MiB of a process by kind; shared file pages are the file cache."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {k: int(v.split()[0]) / 1024 for k, _, v in (line.partition(":") for line in lines)
            if k in ("VmRSS", "RssAnon", "RssFile", "RssShmem", "VmLck", "VmPin")}  # fmt: skip


def run(options, folder, name):
    """One run; facts about it."""
    output = folder / name
    config = folder / f"{name}.toml"
    config.write_text(CONFIG.format(model=options.model, precision=options.precision, pictures=folder / "pictures",
                                    steps=options.steps))  # fmt: skip
    command = [options.fluxlora, "train", config, "--device", "cuda", "--set", f"output.path={output}"]
    if options.vram:
        command += ["--set", f"memory.vram={options.vram}"]
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    base = pynvml.nvmlDeviceGetMemoryInfo(gpu).used
    start, first, gpu_peak, host_peak = time.time(), None, 0, {}
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = []
    listener = threading.Thread(
        target=lambda: said.extend(f"{time.time() - start:6.1f} s  {line}" for line in process.stdout), daemon=True)  # fmt: skip
    listener.start()
    while process.poll() is None:
        metrics = output / "metrics.jsonl"
        if first is None and metrics.exists() and '"step"' in metrics.read_text():
            first = time.time() - start
        gpu_peak = max(gpu_peak, pynvml.nvmlDeviceGetMemoryInfo(gpu).used - base)
        for kind, size in host_memory(process.pid).items():
            host_peak[kind] = max(host_peak.get(kind, 0), size)
        time.sleep(0.02)
    seconds = time.time() - start
    listener.join()
    (folder / f"{name}.log").write_text("".join(said))
    if process.returncode != 0:
        print((folder / f"{name}.log").read_text()[-4000:])
        sys.exit(f"{name}: fluxlora ended with {process.returncode}")
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert len(steps) == options.steps and all(np.isfinite(s["loss"]) for s in steps), "a loss is missing or NaN"
    took = [s["seconds"] for s in steps]
    return {"seconds in all": round(seconds, 1), "seconds to the first step": round(first or 0, 1),
            "seconds a step, median": statistics.median(took), "best": min(took), "worst": max(took),
            "GPU peak MiB": gpu_peak >> 20, "host peak MiB": {k: round(v) for k, v in host_peak.items()},
            "first loss": steps[0]["loss"], "last loss": steps[-1]["loss"]}  # fmt: skip


def loads_in_diffusers(options, file):
    """The number of LoRA layers that diffusers makes of the file, on a transformer without numbers."""
    import torch
    from diffusers import FluxTransformer2DModel
    from safetensors.torch import load_file

    config = FluxTransformer2DModel.load_config(options.model / "transformer")
    with torch.device("meta"):
        model = FluxTransformer2DModel.from_config(config)
    tensors = load_file(file)
    model.load_lora_adapter(tensors, prefix="transformer")
    names = {n for n, _ in model.named_parameters() if ".lora_" in n}
    assert len(names) == len(tensors), f"{len(tensors)} tensors in the file, {len(names)} in the model"
    return len(names) // 2


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fluxlora", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--precision", default="fp8")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--vram", default="")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/full"))
    options = parser.parse_args()
    pynvml.nvmlInit()
    if not (options.work / "pictures").exists():
        make_pictures(options.work / "pictures")
    name = f"{options.precision}{options.vram}"
    facts = run(options, options.work, name)
    file = options.work / name / "full.safetensors"
    facts["LoRA layers in diffusers"] = loads_in_diffusers(options, file)
    if options.again:  # with all caches made
        facts["again, from the caches"] = run(options, options.work, name + "-again")
        facts["same bytes again"] = file.read_bytes() == (options.work / f"{name}-again" / "full.safetensors").read_bytes()
    print(json.dumps({name: facts}, indent=1))


if __name__ == "__main__":
    main()
