# SPDX-License-Identifier: Apache-2.0
"""FLUX.1-dev's real widths on a GPU: our networks against diffusers, PEFT and transformers on the same GPU.

    python tests/gpu/parity.py PROGRAMS [--double 19 --single 38] [--side 64] [--encoders] [--work /tmp/parity]

PROGRAMS is the folder of model_dump, text_dump and vae_dump. The weights are random (bench/make_random_model.py), the
same bf16 numbers for all; so are A and B of a rank 16 LoRA on the default targets, none of them zero. The reference is
diffusers in f32. Judged: how far we are in bf16 beside how far diffusers itself is in bf16 (at most 1.25 times), and
the gradients with fp8 and int8 weights against our own in bf16 (cosine at least 0.99 over all, 0.95 for the worst
matrix). Told besides: those of NF4, and the least and the middle cosine of each kind of layer.
"""

import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys

import torch
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "golden"), str(ROOT / "bench")]
import make_random_model as maker  # noqa: E402
import reference as ref  # noqa: E402

RANK, TEXT_TOKENS = 16, 512
FARTHER, COSINE, WORST_COSINE = 1.25, 0.99, 0.95
FEW_BITS = ("fp8", "int8", "nf4")


def distance(found, wanted):
    """|found - wanted| / |wanted| over everything, in f64."""
    found, wanted = (torch.cat([v.double().flatten().cpu() for v in x]) for x in (found, wanted))
    return float((found - wanted).norm() / wanted.norm())


def cosine(a, b):
    a, b = a.double().flatten(), b.double().flatten()
    return float(a @ b / (a.norm() * b.norm()))


def make_batch(config, side):
    """One picture of side x side tokens, as numbers that bf16 holds."""
    rng = ref.generator(7)

    def normal(*shape):
        return torch.randn(*shape, generator=rng).bfloat16().float()

    N, C = side * side, config.in_channels
    batch = {"x0": normal(1, N, C), "noise": normal(1, N, C), "txt": 0.3 * normal(1, TEXT_TOKENS, config.joint_attention_dim),
             "pooled": normal(1, config.pooled_projection_dim), "t": torch.tensor([0.625]),
             "guidance": torch.tensor([1.0]), "grid": torch.tensor([side, side], dtype=torch.float32)}  # fmt: skip
    w = batch["t"].view(-1, 1, 1)
    batch["img"] = ((1 - w) * batch["x0"] + w * batch["noise"]).bfloat16().float()
    return {k: v.contiguous() for k, v in batch.items()}


def diffusers_step(model, batch, factors, dtype):
    """Prediction, loss and gradients by the names of a LoRA file."""
    model = model.to(dtype)
    model.enable_gradient_checkpointing()
    device = next(model.parameters()).device
    b = {k: v.to(device, dtype) for k, v in batch.items()}
    rows, columns = (int(n) for n in batch["grid"])
    ids = torch.zeros(rows, columns, 3, device=device, dtype=dtype)
    ids[..., 1] += torch.arange(rows, device=device)[:, None]
    ids[..., 2] += torch.arange(columns, device=device)[None]
    with ref.adapter(model, factors, alpha=RANK) as parameters:
        for pair in parameters.values():
            for p in pair:
                p.data = p.data.to(dtype)
        model.train()
        prediction = model(hidden_states=b["img"], encoder_hidden_states=b["txt"], pooled_projections=b["pooled"],
                           timestep=b["t"], guidance=b["guidance"], img_ids=ids.view(-1, 3),
                           txt_ids=torch.zeros(TEXT_TOKENS, 3, device=device, dtype=dtype), return_dict=False)[0]  # fmt: skip
        target = batch["noise"].to(device) - batch["x0"].to(device)
        loss = (prediction.float() - target).square().mean()
        loss.backward()
        gradients = {n: (a.grad.float().cpu(), b.grad.float().cpu()) for n, (a, b) in parameters.items()}
    model.eval()
    return {"prediction": prediction.detach().float().cpu(), "loss": loss.detach().float().cpu(),
            "gradients": ref.file_names("transformer", gradients)}  # fmt: skip


def our_step(programs, work, model, precision):
    out, gradients = work / f"{precision}.safetensors", work / f"{precision}-gradients.safetensors"
    subprocess.run([programs / "model_dump", model, work / "batch.safetensors", out, precision, "cuda",
                    work / "lora.safetensors", gradients], check=True)  # fmt: skip
    found = load_file(out)
    return {"prediction": found["prediction"], "loss": found["loss"], "gradients": load_file(gradients)}


def cosines(found, wanted):
    """Of gradients by name: over all, of the worst matrix, and the least and the middle of each kind of layer."""
    by_matrix = {k: cosine(found[k], wanted[k]) for k in wanted}
    kinds = {}
    for name, value in by_matrix.items():
        kinds.setdefault(re.sub(r"\.\d+\.", ".", name, count=1), []).append(value)
    worst = min(by_matrix, key=by_matrix.get)
    everything = [torch.cat([gradients[k].flatten() for k in wanted]) for gradients in (found, wanted)]
    return {"all": cosine(*everything), "worst": by_matrix[worst], "matrix": worst,
            "kinds": {kind: [min(values), statistics.median(values)] for kind, values in kinds.items()}}  # fmt: skip


def transformer(options):
    work = options.work
    model = maker.make_transformer("flux", options.double, options.single)
    folder = work / "transformer"
    model.save_pretrained(folder, max_shard_size="10GB")
    names = ref.linears(model, ref.DEFAULT_TARGETS)
    factors = {n: (a.bfloat16().float(), b.bfloat16().float())
               for n, (a, b) in ref.random_factors(model, names, RANK, seed=5).items()}  # fmt: skip
    save_file({k: v.contiguous() for k, v in ref.file_names("transformer", factors).items()}, work / "lora.safetensors")
    batch = make_batch(model.config, options.side)
    save_file(batch, work / "batch.safetensors")

    steps = {"diffusers bf16": diffusers_step(model, batch, factors, torch.bfloat16)}
    steps["diffusers f32"] = diffusers_step(model, batch, factors, torch.float32)
    del model
    torch.cuda.empty_cache()
    for precision in ("bf16", *FEW_BITS):
        steps[precision] = our_step(options.programs, work, folder, precision)
    if options.f32:
        steps["f32"] = our_step(options.programs, work, folder, "f32")

    wanted = steps.pop("diffusers f32")
    result = {"blocks": [options.double, options.single], "tokens": options.side**2, "adapters": len(names),
              "loss": float(wanted["loss"])}  # fmt: skip
    keys = sorted(wanted["gradients"])
    for name, step in steps.items():
        assert sorted(step["gradients"]) == keys, f"{name} has other gradients"
        assert all(g.isfinite().all() for g in step["gradients"].values()), name
        result[name] = {"prediction": distance([step["prediction"]], [wanted["prediction"]]),
                        "loss": float((step["loss"] - wanted["loss"]).abs().max() / wanted["loss"]),
                        "gradients": distance([step["gradients"][k] for k in keys], [wanted["gradients"][k] for k in keys])}  # fmt: skip
    for what in ("prediction", "gradients"):
        result[f"{what}, ours / diffusers in bf16"] = result["bf16"][what] / result["diffusers bf16"][what]
    found = {p: cosines(steps[p]["gradients"], steps["bf16"]["gradients"]) for p in FEW_BITS}
    for precision, values in found.items():
        result[f"{precision} against bf16, cosine"] = values
    ok = max(result[f"{w}, ours / diffusers in bf16"] for w in ("prediction", "gradients")) <= FARTHER
    ok = ok and all(found[p]["all"] >= COSINE and found[p]["worst"] >= WORST_COSINE for p in ("fp8", "int8"))
    return result, ok


@torch.no_grad()
def encoders(options):
    """CLIP-L, T5-XXL and the VAE at their real sizes: in bf16, beside transformers and diffusers in f32 and bf16."""
    work, result, ok = options.work, {}, True
    models = maker.make_encoders()
    rng = ref.generator(9)
    ids = {"text_encoder": torch.randint(3, 700, (1, 77), generator=rng),
           "text_encoder_2": torch.randint(3, 32000, (1, TEXT_TOKENS), generator=rng)}  # fmt: skip
    ids["text_encoder"][0, 40:] = models["text_encoder"].config.eos_token_id
    pixels = torch.rand(1, 512, 512, 3, generator=rng).mul(2).sub(1).bfloat16().float()
    latents, noise = (torch.randn(1, 64, 64, 16, generator=rng).bfloat16().float() for _ in range(2))
    config = models["vae"].config

    def run(name, model):
        device, dtype = next(model.parameters()).device, next(model.parameters()).dtype
        if name == "text_encoder":
            return [model(ids[name].to(device)).pooler_output]
        if name == "text_encoder_2":
            return [model(ids[name].to(device))[0]]
        mean = model.encode(pixels.permute(0, 3, 1, 2).to(device, dtype)).latent_dist.mean
        z = latents.permute(0, 3, 1, 2).to(device, dtype) / config.scaling_factor + config.shift_factor
        return [((mean - config.shift_factor) * config.scaling_factor).permute(0, 2, 3, 1),
                model.decode(z).sample.permute(0, 2, 3, 1)]  # fmt: skip

    for name, model in models.items():
        model.save_pretrained(work / name)
        theirs = [x.float().cpu() for x in run(name, model)]
        wanted = [x.float().cpu() for x in run(name, model.float())]
        inputs = {"pixels": pixels, "latents": latents, "noise": noise} if name == "vae" else {"ids": ids[name].int()}
        save_file(inputs, work / "in.safetensors")
        files = [work / name, work / "in.safetensors", work / "out.safetensors"]
        ours = {}
        for precision in ("bf16", "f32", *(FEW_BITS if name == "text_encoder_2" else ())):
            if name == "vae":
                command = [options.programs / "vae_dump", *files, precision.upper(), "cuda"]
            else:
                command = [options.programs / "text_dump", "clip" if name == "text_encoder" else "t5", *files, precision, "cuda"]
            subprocess.run(command, check=True)
            out = load_file(work / "out.safetensors")
            ours[precision] = [out["mean"], out["decoded"]] if name == "vae" else [out["output"]]
        part = {"diffusers bf16": [distance([a], [b]) for a, b in zip(theirs, wanted)]}
        for precision, found in ours.items():
            part[precision] = [distance([a.reshape(b.shape)], [b]) for a, b in zip(found, wanted)]
        part["ratio"] = [a / b for a, b in zip(part["bf16"], part["diffusers bf16"])]
        ok = ok and max(part["ratio"]) <= FARTHER
        result[name] = part
        models[name] = None
        torch.cuda.empty_cache()
    return result, ok


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=pathlib.Path)
    parser.add_argument("--double", type=int, default=1)
    parser.add_argument("--single", type=int, default=1)
    parser.add_argument("--side", type=int, default=64, help="tokens; 64 is 1024 pixels")
    parser.add_argument("--encoders", action="store_true", help="CLIP-L, T5-XXL and the VAE instead")
    parser.add_argument("--f32", action="store_true", help="ours in f32 too, which takes four times the memory of fp8")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/parity"))
    options = parser.parse_args()
    options.programs = options.programs.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.enable_cudnn_sdp(False)  # PyTorch's own attention; cuDNN's is what we use
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    result, ok = encoders(options) if options.encoders else transformer(options)
    print(json.dumps(result, indent=1))
    print("parity: " + ("passed" if ok else "FAILED"))
    sys.exit(not ok)


if __name__ == "__main__":
    main()
