# SPDX-License-Identifier: Apache-2.0
"""Times LoRA steps of kohya's sd-scripts with --fp8_base --gradient_checkpointing on a FLUX.1-dev of random weights.

    python bench/peers/sd_scripts_step.py --sd-scripts DIR [--side 32]

DIR is a checkout of github.com/kohya-ss/sd-scripts (tried with 48d368fa); `git clone` makes one. Its own model
(library/flux_models.py) and its own network (networks/lora_flux.py) are built as train_network.py builds them: weights
cast to e4m3, products under bf16 autocast, LoRA in f32, every block checkpointed. The adapters are on the linears of
our "default" targets, no modulation; q, k, v and the single blocks' first layer are one module each (228), since its
split of them does not run at that commit. --all-modules takes its own default, with modulation: 304.
"""

import importlib.machinery
import importlib.util
import pathlib
import sys
import types
from dataclasses import replace

import common
import torch


def stand_in_for_unused_imports():
    """library/utils.py imports these for other models; where they are missing, empty modules do. What looks whether
    they are there has to look before."""
    from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler  # noqa: F401
    from transformers import CLIPTextModel  # noqa: F401

    for name in ("cv2", "torchvision"):
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
            sys.modules[name].transforms = None


def import_sd_scripts(folder):
    if folder is None or not (folder / "library" / "flux_models.py").is_file():
        sys.exit("error: --sd-scripts: no checkout of sd-scripts is there\n"
                 "hint: git clone https://github.com/kohya-ss/sd-scripts, and give its folder")  # fmt: skip
    sys.path.insert(0, str(folder))
    if importlib.util.find_spec("einops") is None:
        sys.exit("error: einops is missing, which sd-scripts' model needs\n"
                 "hint: pip install einops, or copy its folder into that of sd-scripts: it is plain Python")  # fmt: skip
    stand_in_for_unused_imports()
    from library import flux_models
    from networks import lora_flux

    return flux_models, lora_flux


def make_model(options, flux_models, lora_flux):
    params = replace(flux_models.configs["dev"].params, depth=options.double, depth_single_blocks=options.single,
                     num_heads=options.heads, hidden_size=128 * options.heads)  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(options.device):
        model = flux_models.Flux(params)
    torch.set_default_dtype(torch.float32)
    model.to(torch.float8_e4m3fn)
    model.requires_grad_(False)
    no_modulation = {} if options.all_modules else {"img_mod_dim": 0, "txt_mod_dim": 0, "single_mod_dim": 0}
    network = lora_flux.create_network(1.0, options.rank, options.rank, None, [], model, **no_modulation)
    network.apply_to([], model, apply_text_encoder=False, apply_unet=True)
    network.to(options.device)
    model.enable_gradient_checkpointing()
    model.train()
    network.prepare_grad_etc([], model)
    network.on_epoch_start([], model)
    return model, network


def main():
    parser = common.parser(__doc__)
    parser.add_argument("--sd-scripts", type=pathlib.Path, help="a checkout of kohya-ss/sd-scripts")
    parser.add_argument("--all-modules", action="store_true", help="modulation too, as is its default")
    options = parser.parse_args()
    torch.manual_seed(0)
    out, sys.stdout = sys.stdout, sys.stderr  # its model prints
    model, network = make_model(options, *import_sd_scripts(options.sd_scripts))
    sys.stdout = out
    parameters = [p for p in network.parameters() if p.requires_grad]
    batch = common.inputs(options)
    places = {k: batch[k].expand(options.batch, -1, -1) for k in ("image_ids", "text_ids")}
    given = (batch["txt"], batch["pooled"], places["image_ids"], batch["guidance"])
    txt, pooled, image_ids, guidance = (x.clone().requires_grad_() for x in given)  # as its trainer has them

    def predict():
        x_t, t, target = common.noisy(batch)
        with torch.autocast(torch.device(options.device).type, torch.bfloat16):
            prediction = model(img=x_t.requires_grad_(), img_ids=image_ids, txt=txt, txt_ids=places["text_ids"],
                               y=pooled, timesteps=t, guidance=guidance, txt_attention_mask=None, mod_vectors=None)  # fmt: skip
        return prediction, target

    result = common.measure(options, parameters, predict)
    common.report({"peer": "sd-scripts", "precision": "fp8_base", "compiled": False, "checkpointing": True,
                   "adapters": len(network.unet_loras)} | result)  # fmt: skip


if __name__ == "__main__":
    main()
