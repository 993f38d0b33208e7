#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The names of all options that a peer's parser knows, read from its source without running it.

    list_options.py kohya|kohya-dataset|ai-toolkit|diffusers CHECKOUT

tests/import/peer_options/*.txt are what this prints; the test compares them with assets/peers/.
"""
import ast
import pathlib
import sys

KOHYA = {  # the functions that train_network.setup_parser and flux_train_network.setup_parser call
    "library/utils.py": ["add_logging_arguments"],
    "library/train_util.py": [
        "add_sd_models_arguments", "add_dataset_arguments", "add_training_arguments",
        "add_masked_loss_arguments", "add_optimizer_arguments", "add_dit_training_arguments"],
    "library/sai_model_spec.py": ["add_model_spec_arguments"],
    "library/deepspeed_utils.py": ["add_deepspeed_arguments"],
    "library/config_util.py": ["add_config_arguments"],
    "library/custom_train_functions.py": ["add_custom_train_arguments"],
    "library/flux_train_utils.py": ["add_flux_train_arguments"],
    "train_network.py": ["setup_parser"],
    "flux_train_network.py": ["setup_parser"],
}
DIFFUSERS = {
    "examples/dreambooth/train_dreambooth_lora_flux.py": ["parse_args"],
    "examples/advanced_diffusion_training/train_dreambooth_lora_flux_advanced.py": ["parse_args"],
}
# ai-toolkit's classes, and the table of a configuration that each reads
AI_TOOLKIT = {
    "SaveConfig": "save", "LoggingConfig": "logging", "SampleConfig": "sample",
    "SampleItem": "sample.samples", "NetworkConfig": "network", "LoRMConfig": "network.lorm",
    "LormModuleSettingsConfig": "network.lorm.module_settings", "AdapterConfig": "adapter",
    "EmbeddingConfig": "embedding", "DecoratorConfig": "decorator", "TrainConfig": "train",
    "ValidationConfig": "train.validation_config",
    "ValidationItem": "train.validation_config.validation_items",
    "EMAConfig": "train.ema_config", "ModelConfig": "model", "GuidanceConfig": "guidance",
    "DatasetConfig": "datasets",
}
AI_TOOLKIT_PROCESSES = ["jobs/process/BaseProcess.py", "jobs/process/BaseTrainProcess.py",
                        "jobs/process/BaseSDTrainProcess.py"]


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def first_text(call):
    if call.args and isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str):
        return call.args[0].value
    return None


def calls(node, attribute):
    for call in ast.walk(node):
        if (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
                and call.func.attr == attribute and first_text(call)):
            yield call


def arguments(root, files):
    for file, functions in files.items():
        for node in tree(root / file).body:
            if isinstance(node, ast.FunctionDef) and node.name in functions:
                for call in calls(node, "add_argument"):
                    for argument in call.args:
                        if argument.value.startswith("--"):
                            yield argument.value[2:]


def kohya_dataset(root):
    for node in tree(root / "library/config_util.py").body:
        if isinstance(node, ast.ClassDef) and node.name.endswith(("SubsetParams", "DatasetParams")):
            for field in node.body:
                if isinstance(field, ast.AnnAssign):
                    yield field.target.id


def ai_toolkit(root):
    for node in tree(root / "toolkit/config_modules.py").body:
        if isinstance(node, ast.ClassDef) and node.name in AI_TOOLKIT:
            for call in calls(node, "get"):
                if isinstance(call.func.value, ast.Name) and call.func.value.id == "kwargs":
                    yield f"{AI_TOOLKIT[node.name]}.{first_text(call)}"
    for file in AI_TOOLKIT_PROCESSES:
        for call in calls(tree(root / file), "get_conf"):
            yield first_text(call)


def main():
    kind, root = sys.argv[1], pathlib.Path(sys.argv[2])
    names = {"kohya": lambda: arguments(root, KOHYA), "kohya-dataset": lambda: kohya_dataset(root),
             "ai-toolkit": lambda: ai_toolkit(root),
             "diffusers": lambda: arguments(root, DIFFUSERS)}[kind]()
    print("\n".join(sorted(set(names))))


if __name__ == "__main__":
    main()
