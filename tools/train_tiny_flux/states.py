# SPDX-License-Identifier: Apache-2.0
"""The files of a training state folder.

vae.safetensors            autoencoder (averaged weights, f32); latents.json: scaling and shift
teacher.safetensors        transformer, text_encoder, text_encoder_2 (averaged, f32)
teacher_resume.safetensors what continuing the teacher needs
student.safetensors        transformer after guidance distillation (averaged, f32)
judge.safetensors          judge network, f16
log.jsonl                  one line of figures per finished stage
"""

import json
import pathlib
import time

from safetensors.torch import load_file, save_file


def save_modules(path, modules):
    """Writes {prefix: {name: tensor}} as prefix.name, f32."""
    tensors = {f"{p}.{n}": t.detach().float().cpu().contiguous() for p, m in modules.items() for n, t in m.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def load_modules(path, models, only=None):
    """Loads prefix.name tensors of a file into models by prefix."""
    tensors = load_file(path)
    for prefix, model in models.items():
        if only is None or prefix in only:
            start = prefix + "."
            model.load_state_dict({k[len(start) :]: v for k, v in tensors.items() if k.startswith(start)})


def load_vae(state, model):
    """Loads the autoencoder; returns (scaling, shift)."""
    state = pathlib.Path(state)
    load_modules(state / "vae.safetensors", {"vae": model})
    numbers = json.loads((state / "latents.json").read_text())
    return numbers["scaling"], numbers["shift"]


def load_models(state, models):
    """Loads the latest weights of all four networks; returns (scaling, shift)."""
    state = pathlib.Path(state)
    load_modules(state / "teacher.safetensors", models, ["transformer", "text_encoder", "text_encoder_2"])
    if (state / "student.safetensors").exists():
        load_modules(state / "student.safetensors", models, ["transformer"])
    return load_vae(state, models["vae"])


def log(state, stage, **figures):
    """Appends a line to log.jsonl and prints it."""
    line = json.dumps({"stage": stage, "time": round(time.time()), **figures})
    print(line, flush=True)
    with open(pathlib.Path(state) / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(line + "\n")
