# SPDX-License-Identifier: Apache-2.0
"""How long `fluxlora prepare` takes for 30 photographs of 24 megapixels, and how much memory.

    OMP_NUM_THREADS=1 .venv-test/bin/python bench/prepare_photographs.py build/fluxlora [--threads 2]

The photographs are scikit-image's, enlarged to 6000 x 4000 with fresh grain, as JPEG of quality 92.
"""

import argparse
import multiprocessing
import os
import pathlib
import subprocess
import tempfile
import time

import numpy as np
import skimage
from PIL import Image

COUNT, SIZE = 30, (6000, 4000)


def write_photographs(folder):
    data = pathlib.Path(skimage.__file__).parent / "data"
    sources = [Image.open(data / name).convert("RGB") for name in ("astronaut.png", "chelsea.png", "coffee.png")]
    random = np.random.default_rng(0)
    for number in range(COUNT):
        source = sources[number % len(sources)]
        left, top = random.integers(0, 40, 2)
        box = (left, top, left + 400, top + 266)
        picture = np.asarray(source.resize(SIZE, Image.BICUBIC, box=box), np.int16)
        grain = random.integers(-8, 9, (SIZE[1], SIZE[0], 1), dtype=np.int16)
        Image.fromarray(np.clip(picture + grain, 0, 255).astype(np.uint8)).save(
            folder / f"photo_{number:02}.jpg", quality=92)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch) / "photos"
        folder.mkdir()
        # In a process of its own: a child's peak of memory counts what its parent had when it was started.
        painter = multiprocessing.get_context("spawn").Process(target=write_photographs, args=(folder,))
        painter.start()
        painter.join()
        begin = time.monotonic()
        program = subprocess.Popen(
            [arguments.program, "prepare", folder, "--output", pathlib.Path(scratch) / "dataset"],
            env={**os.environ, "FLUXLORA_THREADS": str(arguments.threads)}, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(program.pid, 0)
        seconds = time.monotonic() - begin
    assert status == 0
    print(f"{COUNT} photographs of {SIZE[0]}x{SIZE[1]}: {seconds:.1f} s on {arguments.threads} threads, "
          f"{used.ru_utime + used.ru_stime:.1f} s of processor time, {used.ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
