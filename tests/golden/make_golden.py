# SPDX-License-Identifier: Apache-2.0
"""Writes what diffusers and PEFT compute on assets/tiny-flux, for tests/model/golden_test.cpp.

    python tests/golden/make_golden.py [--model assets/tiny-flux] [--output tests/golden]

README.md lists the files and their tensors. Run it again whenever assets/tiny-flux changes.
"""

import argparse
import json
import pathlib

import diffusers
import peft
import torch
import transformers
from safetensors.torch import save_file

import reference as ref

PROMPTS = ["a red circle on a plain yellow background", "Two shapes: a small green star, left of a blue ring."]
LONG_PROMPT = ", ".join(f"{size} {colour} square" for size in ("a small", "a large", "one")
                        for colour in ("red", "blue", "green", "violet", "orange", "grey", "teal", "pink"))  # fmt: skip
TEXT_TOKENS, LONG_TEXT_TOKENS = 64, 160
HEIGHT, WIDTH = 96, 128
RANK = 4
ALPHA = {"default": 8.0, "all": 2.0, "clip": 8.0}  # never the rank, so that a forgotten scale shows
TRAIN_STEPS = 10
ADAMW = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
SAMPLE_STEPS, SAMPLE_GUIDANCE = 8, 3.5


def metadata(**values):
    """What every file says of its making."""
    versions = {"torch": torch.__version__.split("+")[0], "diffusers": diffusers.__version__,
                "transformers": transformers.__version__, "peft": peft.__version__}  # fmt: skip
    return {"format": "pt", "versions": json.dumps(versions), **{k: json.dumps(v) for k, v in values.items()}}


def encoders(pipe):
    """Texts to states and pooled vectors, pictures to latents and back."""
    clip_ids, t5_ids = ref.token_ids(pipe, [*PROMPTS, ""], TEXT_TOKENS)
    _, long_ids = ref.token_ids(pipe, [LONG_PROMPT], LONG_TEXT_TOKENS)
    pixels = ref.sample_pictures()
    latents = ref.encode_pictures(pipe, pixels)
    return {
        "clip_ids": clip_ids.int(),
        "t5_ids": t5_ids.int(),
        "pooled": pipe.text_encoder(clip_ids).pooler_output,
        "t5_states": pipe.text_encoder_2(t5_ids)[0],
        "t5_long_ids": long_ids.int(),
        "t5_long_states": pipe.text_encoder_2(long_ids)[0],
        "pixels": torch.from_numpy(pixels),
        "latents": latents,
        "packed": ref.pack(latents),
        "decoded": ref.decode(pipe, latents[:1]),
    }


def make_batch(pipe, encoded):
    """The training batch that all cases share: two pictures with their captions, fixed noise and times."""
    batch = {"x0": encoded["packed"], "txt": encoded["t5_states"][:2], "pooled": encoded["pooled"][:2]}
    batch["noise"] = torch.randn(batch["x0"].shape, generator=ref.generator(11))
    batch["t"] = torch.tensor([0.3127, 0.8041])
    batch["guidance"] = torch.tensor([1.0, 3.5])
    batch["grid"] = (encoded["latents"].shape[2] // 2, encoded["latents"].shape[3] // 2)
    return batch


def transformer_forward(pipe, batch):
    """Every block's output and the loss of the bare model."""
    with ref.recorded(pipe.transformer) as found, torch.no_grad():
        pred, loss = ref.flow_loss(pipe, batch, batch["noise"], batch["t"])
    w = batch["t"].view(-1, 1, 1)
    inputs = {k: batch[k] for k in ("x0", "noise", "t", "guidance", "txt", "pooled")}
    x_t = (1 - w) * batch["x0"] + w * batch["noise"]
    d_pred = 2 * (pred - (batch["noise"] - batch["x0"])) / pred.numel()
    return {**inputs, "x_t": x_t, **found, "pred": pred, "loss": loss, "d_pred": d_pred}


def lora_gradients(pipe, batch, factors, alpha):
    """Prediction, loss and every gradient with a LoRA on the transformer; loss.sum()/B is what falls."""
    batch = {**batch, "pooled": batch["pooled"].clone().requires_grad_(True)}
    with ref.adapter(pipe.transformer, factors, alpha) as parameters:
        pred, loss = ref.flow_loss(pipe, batch, batch["noise"], batch["t"])
        loss.mean().backward()
        gradients = {name: (a.grad, b.grad) for name, (a, b) in parameters.items()}
    assert all(g.abs().max() > 0 for pair in gradients.values() for g in pair), "a zero gradient proves nothing"
    return {**ref.file_names("transformer", factors), **ref.file_names("transformer", gradients, "grad."),
            "pred": pred.detach(), "loss": loss.detach(), "d_pooled": batch["pooled"].grad}  # fmt: skip


def clip_gradients(pipe, batch, clip_ids, factors, alpha):
    """The same for a LoRA on CLIP, through the pooled vector."""
    with ref.adapter(pipe.text_encoder, factors, alpha) as parameters:
        pooled = pipe.text_encoder(clip_ids.long()).pooler_output
        pred, loss = ref.flow_loss(pipe, {**batch, "pooled": pooled}, batch["noise"], batch["t"])
        loss.mean().backward()
        gradients = {name: (a.grad, b.grad) for name, (a, b) in parameters.items()}
    return {**ref.file_names("text_encoder.text_model", factors),
            **ref.file_names("text_encoder.text_model", gradients, "grad."),
            "clip_ids": clip_ids, "pooled": pooled.detach(), "pred": pred.detach(), "loss": loss.detach()}  # fmt: skip


def training(pipe, batch, factors, alpha, max_norm):
    """Ten steps of AdamW with clipping from the given factors, new noise and times each step."""
    rng = ref.generator(23)
    noise = torch.randn(TRAIN_STEPS, *batch["x0"].shape, generator=rng)
    t = torch.sigmoid(torch.randn(TRAIN_STEPS, len(batch["x0"]), generator=rng))
    batch = {**batch, "guidance": torch.ones(len(batch["x0"]))}
    losses, norms = [], []
    with ref.adapter(pipe.transformer, factors, alpha) as parameters:
        flat = [p for pair in parameters.values() for p in pair]
        optimizer = torch.optim.AdamW(flat, **ADAMW)
        for step in range(TRAIN_STEPS):
            _, loss = ref.flow_loss(pipe, batch, noise[step], t[step])
            optimizer.zero_grad()
            loss.mean().backward()
            norms.append(torch.nn.utils.clip_grad_norm_(flat, max_norm))
            optimizer.step()
            losses.append(loss.detach().mean())
        final = {name: (a.detach().clone(), b.detach().clone()) for name, (a, b) in parameters.items()}
    return {"noise": noise, "t": t, "guidance": batch["guidance"], "losses": torch.stack(losses),
            "grad_norms": torch.stack(norms), **ref.file_names("transformer", final, "final.")}  # fmt: skip


def sampling(pipe, factors, alpha):
    """FluxPipeline from given noise, without and with the LoRA: latents (1, C, h, w) and u8 pictures."""
    h, w = HEIGHT // pipe.vae_scale_factor, WIDTH // pipe.vae_scale_factor
    start = torch.randn(1, pipe.vae.config.latent_channels, h, w, generator=ref.generator(31))

    def run(output_type):
        return pipe(PROMPTS[0], height=HEIGHT, width=WIDTH, latents=ref.pack(start), num_inference_steps=SAMPLE_STEPS,
                    guidance_scale=SAMPLE_GUIDANCE, max_sequence_length=TEXT_TOKENS, output_type=output_type).images  # fmt: skip

    def results(suffix):
        image = torch.from_numpy(run("np")).mul(255).round().to(torch.uint8)
        return {"result" + suffix: ref.unpack(pipe, run("latent"), HEIGHT, WIDTH), "image" + suffix: image}

    tensors = {"latents": start, **results("")}
    with ref.adapter(pipe.transformer, factors, alpha):
        tensors.update(results("_lora"))
    return tensors


def print_floor(folder, encoded):
    """How far this reference in f32 is from itself in f64: what no test can go below."""
    results = []
    for dtype in (torch.float32, torch.float64):
        pipe = ref.load_pipeline(folder, dtype)
        batch = {k: v.to(dtype) if torch.is_tensor(v) else v for k, v in make_batch(pipe, encoded).items()}
        factors = ref.random_factors(pipe.transformer, ref.linears(pipe.transformer, ref.ALL_TARGETS), RANK, seed=101)
        found = {**transformer_forward(pipe, batch), **lora_gradients(pipe, batch, factors, ALPHA["all"])}
        results.append({k: v.detach().double() for k, v in found.items()})
    error = {k: float((results[0][k] - v).norm() / v.norm()) for k, v in results[1].items()}
    for name, value in error.items():
        if "lora_" not in name:
            print(f"{name}: {value:.1e}")
    worst = max((n for n in error if n.startswith("grad.")), key=error.get)
    print(f"worst gradient: {error[worst]:.1e} ({worst})")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=pathlib.Path, default=ref.TINY)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    parser.add_argument("--floor", action="store_true", help="write nothing; print the reference's own error")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipe = ref.load_pipeline(options.model)
    total = 0

    def save(name, tensors, **values):
        nonlocal total
        path = options.output / f"{name}.safetensors"
        tensors = {k: v.detach().clone().contiguous() for k, v in tensors.items()}
        assert all(v.isfinite().all() for v in tensors.values()), name
        save_file(tensors, path, metadata=metadata(**values))
        total += path.stat().st_size
        print(f"{path}: {len(tensors)} tensors, {path.stat().st_size} bytes")

    with torch.no_grad():
        encoded = encoders(pipe)
    if options.floor:
        return print_floor(options.model, encoded)
    batch = make_batch(pipe, encoded)
    save("encoders", encoded, prompts=[*PROMPTS, ""], long_prompt=LONG_PROMPT)
    save("transformer", transformer_forward(pipe, batch), grid=batch["grid"])

    factors = {}
    for i, (name, pattern) in enumerate((("default", ref.DEFAULT_TARGETS), ("all", ref.ALL_TARGETS))):
        names = ref.linears(pipe.transformer, pattern)
        factors[name] = ref.random_factors(pipe.transformer, names, RANK, seed=100 + i)
        save(f"lora_{name}", lora_gradients(pipe, batch, factors[name], ALPHA[name]), rank=RANK, alpha=ALPHA[name])
    names = ref.linears(pipe.text_encoder, ref.CLIP_TARGETS)
    clip = ref.random_factors(pipe.text_encoder, names, RANK, seed=102)
    save("lora_clip", clip_gradients(pipe, batch, encoded["clip_ids"][:2], clip, ALPHA["clip"]),
         rank=RANK, alpha=ALPHA["clip"])  # fmt: skip

    case = (pipe, batch, factors["default"], ALPHA["default"])
    norms = training(*case, max_norm=float("inf"))["grad_norms"]
    max_norm = float(f"{norms.median():.1e}")  # so that about half of the steps are clipped
    save("training", training(*case, max_norm), rank=RANK, alpha=ALPHA["default"], steps=TRAIN_STEPS,
         max_norm=max_norm, adamw=ADAMW)  # fmt: skip
    with torch.no_grad():
        save("sampling", sampling(pipe, factors["default"], ALPHA["default"]), prompt=PROMPTS[0], steps=SAMPLE_STEPS,
             guidance=SAMPLE_GUIDANCE, height=HEIGHT, width=WIDTH, text_tokens=TEXT_TOKENS)  # fmt: skip
    print(f"{total} bytes in all")


if __name__ == "__main__":
    main()
