# SPDX-License-Identifier: Apache-2.0
"""The quickstart on the GPU and on the CPU of one machine: how alike the pictures are, and whether it is repeated.

    python tests/gpu/quickstart.py FLUXLORA [--work /tmp/quickstart]

Judged: the pictures of the last step have a PSNR of at least 30 dB with the CPU's, in the precision that a GPU takes by
itself (bf16), and two runs on the GPU give the same LoRA byte by byte.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
LEAST = 30


def train(options, name, device, precision):
    output = options.work / name
    start = time.time()
    subprocess.run([options.fluxlora, "train", ROOT / "presets" / "quickstart.toml", "--device", device, "--set",
                    f"output.path={output}", "--set", f"model.precision={precision}", "--set",
                    "output.metadata_dates=false"], check=True, capture_output=True)  # fmt: skip
    return output, time.time() - start


def pictures(run, step):
    files = sorted((run / "samples" / f"step-{step:06}").glob("*.png"))
    assert files, f"no samples of step {step} below {run}"
    return [np.asarray(Image.open(f)).astype(float) for f in files]


def psnr(a, b):
    return [float(10 * np.log10(255**2 / max(np.mean((x - y) ** 2), 1e-9))) for x, y in zip(a, b)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fluxlora", type=pathlib.Path)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/quickstart"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    runs = {name: train(options, name, *how) for name, how in {
        "cpu": ("cpu", "f32"), "bf16": ("cuda", "auto"), "again": ("cuda", "auto"), "f32": ("cuda", "f32")}.items()}  # fmt: skip
    result = {"seconds": {name: round(seconds, 1) for name, (_, seconds) in runs.items()}}
    for step in (0, 500):
        wanted = pictures(runs["cpu"][0], step)
        result[f"PSNR at step {step}"] = {n: [round(p, 1) for p in psnr(pictures(runs[n][0], step), wanted)]
                                          for n in ("bf16", "f32")}  # fmt: skip
    files = [runs[n][0] / "quickstart.safetensors" for n in ("bf16", "again")]
    result["same bytes again"] = files[0].read_bytes() == files[1].read_bytes()
    ok = min(result["PSNR at step 500"]["bf16"]) >= LEAST and result["same bytes again"]
    print(json.dumps(result, indent=1))
    print("quickstart: " + ("passed" if ok else "FAILED"))
    sys.exit(not ok)


if __name__ == "__main__":
    main()
