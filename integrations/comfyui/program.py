# SPDX-License-Identifier: Apache-2.0
"""The fluxlora program as a process: where it is, which version, how it is run and stopped."""

import collections
import os
import pathlib
import re
import shutil
import signal
import subprocess
import threading
import time

OLDEST = (0, 1, 0)
HOW_TO_INSTALL = (
    "In a copy of fluxlora's repository run scripts/quickstart.sh, which installs what is missing and builds "
    "build/fluxlora; then put that program into PATH, or name it in the environment variable FLUXLORA_PROGRAM, "
    "and start ComfyUI again."
)
POLL_SECONDS = 0.2
# A step of the full model and a checkpoint of it fit in; after that the program is taken to hang.
SECONDS_TO_SAVE = 120


class FluxloraError(RuntimeError):
    """What ComfyUI shows in red: one message that says what to do."""


def find_program():
    """Path of a program of a fitting version; throws FluxloraError that says how to install it."""
    named = os.environ.get("FLUXLORA_PROGRAM")
    # A pack that is linked from a copy of the repository finds what was built there.
    built = [pathlib.Path(__file__).resolve().parents[2] / folder / "fluxlora" for folder in ("build", "build-cuda")]
    candidates = [named] if named else [shutil.which("fluxlora"), *built]
    path = next((str(c) for c in candidates if c and os.access(c, os.X_OK) and os.path.isfile(c)), None)
    if path is None:
        raise FluxloraError(f"The program fluxlora was not found{f' at {named}' if named else ''}. {HOW_TO_INSTALL}")
    check_version(path)
    return path


def check_version(path):
    """Throws FluxloraError unless `path --version` prints "fluxlora X.Y.Z" of at least OLDEST."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False)
        said = done.stdout.strip() or done.stderr.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FluxloraError(f"{path} cannot be run: {error}. {HOW_TO_INSTALL}") from error
    found = re.fullmatch(r"fluxlora (\d+)\.(\d+)\.(\d+)\S*", said)
    if found is None:
        raise FluxloraError(f"{path} is not fluxlora: --version prints {said[:80]!r}. {HOW_TO_INSTALL}")
    if tuple(map(int, found.groups())) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise FluxloraError(f"{path} is {said}, but these nodes need {wanted} or later. {HOW_TO_INSTALL}")


def run(arguments, on_poll):
    """Runs the program to its end and calls on_poll() all the while, in this thread.

    What on_poll throws stops the program as Ctrl-C would, so that it saves its state, and goes on to the caller.
    Throws FluxloraError with the program's own message when it fails.
    """
    process = subprocess.Popen(
        [str(a) for a in arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, errors="replace", start_new_session=True)  # fmt: skip
    last_lines = collections.deque(maxlen=20)
    reader = threading.Thread(target=_pass_on, args=(process.stderr, last_lines), daemon=True)
    reader.start()
    try:
        while process.poll() is None:
            on_poll()
            time.sleep(POLL_SECONDS)
        reader.join()
        on_poll()
    finally:
        stop(process)
        reader.join(timeout=5)
        process.stderr.close()
    if process.returncode != 0:
        raise FluxloraError(_failure(process.returncode, last_lines))


def stop(process):
    """Asks the program to save and leave; kills it when it does not."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=SECONDS_TO_SAVE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _pass_on(stream, last_lines):
    for line in stream:
        print("[fluxlora]", line.rstrip())
        last_lines.append(line.rstrip())


def _failure(status, lines):
    """The two lines "error: ..." and "hint: ..." where there are such, else the last words."""
    said = [line for line in lines if line.startswith(("error: ", "hint: "))] or list(lines)[-5:]
    return f"fluxlora ended with status {status}.\n" + "\n".join(said)
