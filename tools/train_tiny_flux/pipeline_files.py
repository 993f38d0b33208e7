# SPDX-License-Identifier: Apache-2.0
"""Reads and writes the tiny pipeline in diffusers' folder layout.

    python pipeline_files.py --random --pipeline ../../assets/tiny-flux      # untrained weights
    python pipeline_files.py --state state --pipeline ../../assets/tiny-flux  # trained ones
"""

import argparse
import json
import pathlib

import torch
from safetensors.torch import load_file, save_file

import config
from flux_model import Flux
from text_models import ClipText, T5Encoder
from vae_model import Autoencoder

DIFFUSERS = "0.42.1"
WEIGHTS = {
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "transformer": "transformer/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
    "text_encoder_2": "text_encoder_2/model.safetensors",
}
MODEL_INDEX = {
    "_class_name": "FluxPipeline",
    "_diffusers_version": DIFFUSERS,
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def build_models():
    """The four networks with fresh weights, by folder name."""
    return {"vae": Autoencoder(), "transformer": Flux(), "text_encoder": ClipText(), "text_encoder_2": T5Encoder()}


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_configs(folder, scaling, shift):
    """Every JSON file of the pipeline but the tokenizers'; scaling and shift of the latents."""
    version = {"_diffusers_version": DIFFUSERS}
    write_json(folder / "model_index.json", MODEL_INDEX)
    write_json(folder / "scheduler/scheduler_config.json", {**config.SCHEDULER, **version})
    write_json(folder / "transformer/config.json",
               {"_class_name": "FluxTransformer2DModel", **version, **config.TRANSFORMER})  # fmt: skip
    write_json(folder / "vae/config.json", {"_class_name": "AutoencoderKL", **version, **config.VAE,
                                            "scaling_factor": scaling, "shift_factor": shift})  # fmt: skip
    write_json(folder / "text_encoder/config.json", {"architectures": ["CLIPTextModel"],
               "model_type": "clip_text_model", **config.CLIP, "torch_dtype": "bfloat16"})  # fmt: skip
    write_json(folder / "text_encoder_2/config.json", {"architectures": ["T5EncoderModel"],
               "model_type": "t5", **config.T5, "torch_dtype": "bfloat16"})  # fmt: skip


def write_pipeline(folder, models, scaling, shift):
    """Writes configs and bf16 weights of models (by folder name)."""
    folder = pathlib.Path(folder)
    write_configs(folder, scaling, shift)
    for name, model in models.items():
        tensors = {k: v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in model.state_dict().items()}
        save_file(tensors, folder / WEIGHTS[name], metadata={"format": "pt"})


def read_pipeline(folder, device="cpu"):
    """(models by folder name in f32, scaling, shift) of a pipeline folder."""
    folder = pathlib.Path(folder)
    models = build_models()
    for name, model in models.items():
        model.load_state_dict({k: v.float() for k, v in load_file(folder / WEIGHTS[name]).items()})
        model.to(device).requires_grad_(False)
    vae = json.loads((folder / "vae/config.json").read_text())
    return models, vae["scaling_factor"], vae["shift_factor"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", type=pathlib.Path, required=True)
    parser.add_argument("--random", action="store_true", help="untrained weights, for tests of layout and sizes")
    parser.add_argument("--state", type=pathlib.Path, help="folder with vae.safetensors and student.safetensors")
    options = parser.parse_args()
    models = build_models()
    scaling, shift = 0.6, 0.2
    if options.random:
        torch.manual_seed(0)
        for parameter in (p for m in models.values() for p in m.parameters()):
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    else:
        from states import load_models

        scaling, shift = load_models(options.state, models)
    write_pipeline(options.pipeline, models, scaling, shift)
    count = {n: sum(p.numel() for p in m.parameters()) for n, m in models.items()}
    size = sum(f.stat().st_size for f in options.pipeline.rglob("*") if f.is_file())
    print(f"parameters {count}, {sum(count.values())} in all; {size} bytes")


if __name__ == "__main__":
    main()
