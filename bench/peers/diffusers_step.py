# SPDX-License-Identifier: Apache-2.0
"""Times LoRA steps of diffusers + PEFT on a FLUX.1-dev of random bf16 weights, made on the GPU: no files are read.

    python bench/peers/diffusers_step.py [--side 32] [--no-compile] [--no-checkpointing]

The adapters are on the 418 linears of lora.targets = "default", in bf16 as diffusers makes them beside bf16 weights;
blocks are compiled one by one and checkpointed, attention is PyTorch's flash attention. Whether its gradients and ours
are the same is what tests/gpu/parity.py asks.
"""

import pathlib
import re
import sys

import common
import diffusers
import peft
import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from peft_step import TARGETS  # noqa: E402


def make_model(options):
    config = {"num_layers": options.double, "num_single_layers": options.single, "num_attention_heads": options.heads,
              "guidance_embeds": True}  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(options.device):
        model = FluxTransformer2DModel(**config)
    torch.set_default_dtype(torch.float32)
    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=options.rank, lora_alpha=options.rank, target_modules=TARGETS))
    adapters = sum(1 for name, _ in model.named_modules() if re.fullmatch(TARGETS, name))
    model.to(options.device)
    if options.checkpointing:
        model.enable_gradient_checkpointing()
    model.train()
    if options.compile:
        for block in [*model.transformer_blocks, *model.single_transformer_blocks]:
            block.compile()
    return model, adapters


def main():
    parser = common.parser(__doc__)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--no-checkpointing", dest="checkpointing", action="store_false")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cuda.enable_cudnn_sdp(False)  # it crashed once where flash attention did not
    torch._dynamo.config.recompile_limit = 64

    model, adapters = make_model(options)
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert len(parameters) == 2 * adapters
    batch = common.inputs(options)
    txt, pooled, guidance = (batch[k].bfloat16() for k in ("txt", "pooled", "guidance"))

    def predict():
        x_t, t, target = common.noisy(batch)
        prediction = model(hidden_states=x_t.bfloat16(), encoder_hidden_states=txt, pooled_projections=pooled,
                           timestep=t.bfloat16(), guidance=guidance, img_ids=batch["image_ids"],
                           txt_ids=batch["text_ids"], return_dict=False)[0]  # fmt: skip
        return prediction, target

    result = common.measure(options, parameters, predict)
    common.report({"peer": "diffusers + PEFT", "diffusers": diffusers.__version__, "peft": peft.__version__,
                   "precision": "bf16", "compiled": options.compile, "checkpointing": options.checkpointing,
                   "adapters": adapters} | result)  # fmt: skip


if __name__ == "__main__":
    main()
