# SPDX-License-Identifier: Apache-2.0
"""The six nodes: Model, Dataset and Settings say what to train, Train does it, Preview shows it, Save hands it on."""

import os
import pathlib
import re
import shutil

import comfy.model_management
import comfy.utils
import folder_paths
from PIL import Image

from . import program, runs

CATEGORY = "fluxlora"


class AnyName(str):
    """An output that fits every input: a LoRA loader's list of files has no type of its own."""

    def __ne__(self, other):
        return False


def absolute(path):
    """An absolute path, a leading ~ resolved; from the working directory of ComfyUI when it is relative."""
    return str(pathlib.Path(path).expanduser().absolute())


class Model:
    DESCRIPTION = "The FLUX.1 model that is taught: a folder in diffusers' layout, a single file, or tiny."
    CATEGORY, FUNCTION = CATEGORY, "make"
    RETURN_TYPES, RETURN_NAMES = ("FLUXLORA_MODEL",), ("model",)

    @classmethod
    def INPUT_TYPES(cls):
        part = ("STRING", {"default": "", "tooltip": "Empty: that of the model"})
        return {
            "required": {
                "path": ("STRING", {"default": "tiny", "tooltip": "tiny is built in, to try everything out"}),
                "precision": (["auto", "bf16", "fp8", "f32"],),
            },
            "optional": {"vae": part, "clip": part, "t5": part, "clip_tokenizer": part, "t5_tokenizer": part},
        }

    def make(self, path, precision, **parts):
        table = {"path": path if path == "tiny" else absolute(path), "precision": precision}
        table.update({key: absolute(value) for key, value in parts.items() if value})
        return (table,)


class Dataset:
    DESCRIPTION = "A folder of 10 to 30 pictures, with a caption in a .txt file beside each."
    CATEGORY, FUNCTION = CATEGORY, "make"
    RETURN_TYPES, RETURN_NAMES = ("FLUXLORA_DATASET",), ("dataset",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "folder": ("STRING", {"default": ""}),
                "resolution": ("INT", {"default": 0, "min": 0, "max": 8192, "step": 16, "tooltip": "0: the model's"}),
                "buckets": ("BOOLEAN", {"default": False, "tooltip": "Pictures keep their shape"}),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, folder):
        # A folder that comes from another node is not known yet when a graph is checked.
        if folder is None or (folder and pathlib.Path(absolute(folder)).is_dir()):
            return True
        return f"There is no folder {folder!r}: name the folder of the pictures"

    @classmethod
    def IS_CHANGED(cls, folder, **_):
        """Another picture or caption means another run, though the folder's name stays."""
        return sorted(
            (str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in pathlib.Path(absolute(folder)).rglob("*") if p.is_file())  # fmt: skip

    def make(self, folder, resolution, buckets):
        return ({"path": absolute(folder), "resolution": resolution, "buckets": buckets},)


class Settings:
    DESCRIPTION = "How it is trained. `more` takes any other key of docs/config.md, one `table.key=value` a line."
    CATEGORY, FUNCTION = CATEGORY, "make"
    RETURN_TYPES, RETURN_NAMES = ("FLUXLORA_SETTINGS",), ("settings",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "name": ("STRING", {"default": "my_lora"}),
                "trigger": ("STRING", {"default": "mytoken_subject"}),
                "steps": ("INT", {"default": 2000, "min": 1, "max": 100000000}),
                "rank": ("INT", {"default": 16, "min": 1, "max": 4096}),
                "learning_rate": ("FLOAT", {"default": 1e-4, "min": 1e-9, "max": 10.0, "step": 1e-6, "round": False}),
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 1024}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**53}),
                "sample_every": ("INT", {"default": 250, "min": 0, "max": 100000000, "tooltip": "0: no samples"}),
                "prompts": ("STRING", {"multiline": True, "default": "a photo of [trigger]", "tooltip": "One a line"}),
            },
            "optional": {"more": ("STRING", {"multiline": True, "default": ""})},
        }

    def make(self, name, trigger, steps, rank, learning_rate, batch_size, seed, sample_every, prompts, more=""):
        sample = {"every": sample_every}
        if prompts.strip():
            sample["prompts"] = lines_of(prompts)
        tables = {
            "subject": {"name": name, "trigger": trigger},
            "lora": {"rank": rank, "alpha": rank},
            "train": {"steps": steps, "learning_rate": learning_rate, "batch_size": batch_size, "seed": seed},
            "sample": sample,
        }
        return ({"tables": tables, "more": lines_of(more)},)


def lines_of(text):
    return [line.strip() for line in text.splitlines() if line.strip()]


class Train:
    DESCRIPTION = "Runs fluxlora train. Cancelling saves the state; queueing the same again goes on from there."
    CATEGORY, FUNCTION = CATEGORY, "train"
    RETURN_TYPES, RETURN_NAMES = ("FLUXLORA_RUN", "IMAGE", "IMAGE"), ("run", "samples", "loss_curve")

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("FLUXLORA_MODEL",),
                "dataset": ("FLUXLORA_DATASET",),
                "settings": ("FLUXLORA_SETTINGS",),
                "device": (["auto", "cpu", "cuda"],),
                "free_memory": ("BOOLEAN", {"default": True, "tooltip": "ComfyUI's models leave the GPU first"}),
            }
        }

    def train(self, model, dataset, settings, device, free_memory):
        path = program.find_program()
        tables = settings["tables"]
        name, steps = tables["subject"]["name"], tables["train"]["steps"]
        if not re.fullmatch(r"[^/\\\x00-\x1f]+", name) or name.startswith("."):
            raise program.FluxloraError(f"{name!r} cannot be the name of a run: it names a folder and a file")
        folder = pathlib.Path(folder_paths.get_output_directory()) / "fluxlora" / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        config = folder.parent / f"{name}.toml"
        config.write_text(runs.toml({"model": model, "dataset": dataset, **tables}), encoding="utf-8")
        if free_memory and device != "cpu":
            comfy.model_management.unload_all_models()
            comfy.model_management.soft_empty_cache()
        sets = [part for line in settings["more"] for part in ("--set", line)]
        # Last, since Preview and Save look for the run there.
        sets += ["--set", f"output.path={os.fspath(folder)}"]
        arguments = [path, "train", config, "--resume", "--device", device, *sets]
        watch = Watch(folder, steps)
        program.run(arguments, watch.look)
        samples = [Image.open(p) for p in runs.last_samples(folder)]
        run = {"folder": str(folder), "name": name}
        return (run, runs.to_image(samples), runs.to_image([runs.loss_curve(runs.read_losses(folder))]))


class Watch:
    """Follows a run: ComfyUI's progress bar, with new samples and else the loss curve as the node's picture."""

    def __init__(self, folder, steps):
        self._folder, self._steps = folder, steps
        self._bar = comfy.utils.ProgressBar(steps)
        self._losses = runs.Losses(folder)
        self._shown = len(runs.sample_folders(folder))

    def look(self):
        """Throws ComfyUI's own exception when the user has cancelled."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        news = self._losses.update()
        folders = runs.sample_folders(self._folder)
        picture = None
        if len(folders) > self._shown:
            self._shown = len(folders)
            picture = Image.open(runs.last_samples(self._folder)[0]).convert("RGB")
        elif news:
            picture = runs.loss_curve(self._losses)
        if picture is not None:
            step = min(self._losses.last_step(), self._steps)
            self._bar.update_absolute(step, self._steps, ("JPEG", picture, 512))


class Preview:
    DESCRIPTION = "Shows a run: its newest samples and its loss."
    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "show", True
    RETURN_TYPES, RETURN_NAMES = ("IMAGE", "IMAGE"), ("samples", "loss_curve")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"run": ("FLUXLORA_RUN",)}}

    def show(self, run):
        curve = runs.loss_curve(runs.read_losses(run["folder"]))
        samples = [Image.open(p).convert("RGB") for p in runs.last_samples(run["folder"])]
        directory, stem, counter, subfolder, _ = folder_paths.get_save_image_path(
            "fluxlora", folder_paths.get_temp_directory(), *curve.size)
        shown = []
        for i, picture in enumerate([curve, *samples]):
            file = f"{stem}_{counter + i:05}_.png"
            picture.save(os.path.join(directory, file))
            shown.append({"filename": file, "subfolder": subfolder, "type": "temp"})
        return {"ui": {"images": shown}, "result": (runs.to_image(samples), runs.to_image([curve]))}


class Save:
    DESCRIPTION = "Puts the finished LoRA among ComfyUI's own and gives its name, for any LoRA loader."
    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "save", True
    RETURN_TYPES, RETURN_NAMES = (AnyName("*"), "STRING"), ("lora_name", "path")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"run": ("FLUXLORA_RUN",)}}

    def save(self, run):
        source = pathlib.Path(run["folder"]) / f"{run['name']}.safetensors"
        if not source.is_file():
            raise program.FluxloraError(f"{source} is not there: the run is not finished, queue Train again")
        target = pathlib.Path(folder_paths.get_folder_paths("loras")[0]) / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside it first: a loader must never find half a file.
        beside = target.with_name(f".{target.name}.part")
        shutil.copyfile(source, beside)
        os.replace(beside, target)
        return {"ui": {"text": [f"saved as {target.name}"]}, "result": (target.name, str(target))}


NODE_CLASS_MAPPINGS = {f"Fluxlora{c.__name__}": c for c in (Model, Dataset, Settings, Train, Preview, Save)}
NODE_DISPLAY_NAME_MAPPINGS = {key: f"fluxlora {c.__name__}" for key, c in NODE_CLASS_MAPPINGS.items()}
