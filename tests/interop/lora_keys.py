# SPDX-License-Identifier: Apache-2.0
"""The key sets, shapes and dtypes that programs write for FLUX.1 LoRAs, with random values.

Where the names come from:
  kohya        sd-scripts, networks/lora_flux.py: every Linear of the BFL model's blocks, 304 modules
  ai-toolkit   toolkit/lora_special.py: every Linear of diffusers' blocks, 494 modules, no alpha
  diffusers    examples/dreambooth/train_dreambooth_lora_flux.py: its target_modules, 342 modules
  SimpleTuner  documentation/quickstart/FLUX.md, --flux_lora_target=all: attention, 266 modules
  OneTrainer   modules/util/convert/lora/convert_flux_lora.py, convert_clip.py, convert_t5.py: legacy
               ("lora_transformer_..."), its dotted form, OMI, and OMI as it was before ("lora_t5.")
  XLabs        diffusers, loaders/lora_conversion_utils.py (_convert_xlabs_flux_lora_to_diffusers)
"""

import torch

DOUBLE = {  # BFL's layer: diffusers' modules, rows and columns in units of the width
    "img_mod.lin": (["norm1.linear"], [6], 1),
    "img_attn.qkv": (["attn.to_q", "attn.to_k", "attn.to_v"], [1, 1, 1], 1),
    "img_attn.proj": (["attn.to_out.0"], [1], 1),
    "img_mlp.0": (["ff.net.0.proj"], [4], 1),
    "img_mlp.2": (["ff.net.2"], [1], 4),
    "txt_mod.lin": (["norm1_context.linear"], [6], 1),
    "txt_attn.qkv": (["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"], [1, 1, 1], 1),
    "txt_attn.proj": (["attn.to_add_out"], [1], 1),
    "txt_mlp.0": (["ff_context.net.0.proj"], [4], 1),
    "txt_mlp.2": (["ff_context.net.2"], [1], 4),
}
SINGLE = {
    "linear1": (["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"], [1, 1, 1, 4], 1),
    "linear2": (["proj_out"], [1], 5),
    "modulation.lin": (["norm.linear"], [3], 1),
}
CLIP = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2"]  # fmt: skip
T5 = ["layer.0.SelfAttention.q", "layer.0.SelfAttention.k", "layer.0.SelfAttention.v", "layer.0.SelfAttention.o",
      "layer.1.DenseReluDense.wi_0", "layer.1.DenseReluDense.wi_1", "layer.1.DenseReluDense.wo"]  # fmt: skip


def layers(depth=19, depth_single=38):
    """(BFL's name, [(diffusers' module, rows)], columns) of all linear layers of the blocks."""
    for bfl, dif, count, table in (("double_blocks", "transformer_blocks", depth, DOUBLE),
                                   ("single_blocks", "single_transformer_blocks", depth_single, SINGLE)):  # fmt: skip
        for i in range(count):
            for layer, (modules, rows, columns) in table.items():
                parts = [(f"{dif}.{i}.{m}", r) for m, r in zip(modules, rows)]
                yield f"{bfl}.{i}.{layer}", parts, columns


class Writer:
    """Collects pairs; values are random, none is zero."""

    def __init__(self, a, b, dtype, alpha=None, alpha_dtype=None, rank=4, seed=0):
        self.a, self.b, self.dtype, self.rank = a, b, dtype, rank
        self.alpha, self.alpha_dtype = alpha, alpha_dtype or dtype
        self.random = torch.Generator().manual_seed(seed)
        self.tensors = {}

    def numbers(self, *shape):
        return (torch.randn(shape, generator=self.random) * 0.1 + 1e-3).to(self.dtype)

    def add(self, stem, rows, columns):
        self.tensors[stem + self.a] = self.numbers(self.rank, columns)
        self.tensors[stem + self.b] = self.numbers(rows, self.rank)
        if self.alpha is not None:
            self.tensors[stem + ".alpha"] = torch.tensor(self.alpha, dtype=self.alpha_dtype)


def fused(writer, name, width, clip=None, t5=None):
    for bfl, parts, columns in layers():
        writer.add(name(bfl), sum(r for _, r in parts) * width, columns * width)
    text_encoders(writer, clip, t5)
    return writer.tensors


def by_parts(writer, name, width, want=lambda module: True, clip=None, t5=None):
    for bfl, parts, columns in layers():
        for i, (module, rows) in enumerate(parts):
            if want(module):
                writer.add(name(bfl, i if len(parts) > 1 else None, module), rows * width, columns * width)
    text_encoders(writer, clip, t5)
    return writer.tensors


def text_encoders(writer, clip, t5):
    for i in range(12 if clip else 0):
        for module in CLIP:
            writer.add(clip(f"text_model.encoder.layers.{i}.{module}"), 12, 20)
    for i in range(24 if t5 else 0):
        for module in T5:
            writer.add(t5(f"encoder.block.{i}.{module}"), 16, 28)


def under(prefix):
    return lambda name: prefix + name.replace(".", "_")


def dotted(prefix):
    return lambda name: prefix + name


PEFT = (".lora_A.weight", ".lora_B.weight")
KOHYA = (".lora_down.weight", ".lora_up.weight")


def kohya(width, text=False):
    te = {"clip": under("lora_te1_"), "t5": under("lora_te3_")} if text else {}
    writer = Writer(*KOHYA, torch.bfloat16, alpha=2.0, rank=4, seed=1)
    return fused(writer, under("lora_unet_"), width, **te)


def ai_toolkit(width):
    return by_parts(Writer(*PEFT, torch.float16, rank=4, seed=2), lambda b, i, m: "transformer." + m, width)


def diffusers(width):
    def want(m):
        single = m.startswith("single_")
        return "norm" not in m and "proj_mlp" not in m and not (single and "proj_out" in m)

    return by_parts(Writer(*PEFT, torch.float32, rank=4, seed=3), lambda b, i, m: "transformer." + m, width, want)


def simpletuner(width):
    def want(m):
        return ".attn." in m

    return by_parts(Writer(*PEFT, torch.bfloat16, rank=4, seed=4), lambda b, i, m: "transformer." + m, width, want)


def numbered(prefix):
    return lambda b, i, m: prefix + b + ("" if i is None else f".{i}")


ONETRAINER = {
    "onetrainer": (lambda b, i, m: "lora_transformer_" + m.replace(".", "_"), under("lora_te1_"), under("lora_te2_")),
    "onetrainer-dotted": (lambda b, i, m: "lora_transformer." + m, dotted("lora_te1."), dotted("lora_te2.")),
    "onetrainer-omi": (numbered("transformer."), dotted("clip_l."), dotted("t5.")),
    "onetrainer-omi-old": (numbered("lora_transformer."), dotted("lora_clip_l."), dotted("lora_t5.")),
}  # fmt: skip


def onetrainer(width, form, text=True):
    name, clip, t5 = ONETRAINER[form]
    te = {"clip": clip, "t5": t5} if text else {}
    writer = Writer(*KOHYA, torch.bfloat16, alpha=1.0, alpha_dtype=torch.float32, rank=4, seed=5)
    return by_parts(writer, name, width, **te)


def xlabs(width):
    writer = Writer(".down.weight", ".up.weight", torch.bfloat16, rank=4, seed=6)
    for i in range(19):
        for stream in "12":
            writer.add(f"double_blocks.{i}.processor.qkv_lora{stream}", 3 * width, width)
            writer.add(f"double_blocks.{i}.processor.proj_lora{stream}", width, width)
    for i in range(38):
        writer.add(f"single_blocks.{i}.processor.qkv_lora", 3 * width, width)
        writer.add(f"single_blocks.{i}.processor.proj_lora", width, 5 * width)
    return writer.tensors
