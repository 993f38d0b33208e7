# SPDX-License-Identifier: Apache-2.0
"""The metadata of a trained LoRA: what other programs show of it, and sd-scripts' hashes, made again here from their
definition: SHA-256 of the tensors' bytes, and of a window of the file with its ss_ entries alone."""

import hashlib
import struct

import safetensors.torch
from programs import ROOT
from safetensors import safe_open


def test_other_programs_know_what_it_is(fluxlora, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(f"""
[model]
path = "tiny"
text_tokens = 16
[subject]
name = "my zorbot"
trigger = "zorbot"
[dataset]
path = "{ROOT}/assets/sample-dataset"
resolution = 64
[lora]
rank = 64
[train]
steps = 1
[sample]
every = 0
""")
    fluxlora("train", config, "--device", "cpu", "--set", f"output.path={tmp_path}/run")
    path = tmp_path / "run" / "my zorbot.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    pictures = len(list((ROOT / "assets/sample-dataset").glob("*.txt")))
    expected = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "flux-1-dev/lora",
        "modelspec.title": "my zorbot",
        "modelspec.trigger_phrase": "zorbot",
        "modelspec.resolution": "64x64",
        "ss_base_model_version": "flux1",
        "ss_output_name": "my zorbot",
        "ss_learning_rate": "0.0001",
        "ss_max_train_steps": "1",
        "ss_steps": "1",
        "ss_seed": "0",
        "ss_num_train_images": str(pictures - pictures // 6),  # one in six is held out
    }
    assert expected.items() <= metadata.items()
    assert not any(str(tmp_path) in value for value in metadata.values()), "files hold no paths"
    data = path.read_bytes()
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    assert metadata["sshs_model_hash"] == hashlib.sha256(data[begin:]).hexdigest()
    ss = {k: v for k, v in metadata.items() if k.startswith("ss_")}
    bare = safetensors.torch.save(safetensors.torch.load_file(path), ss)
    assert len(bare) > 0x100000, "else the window is empty"
    assert metadata["sshs_legacy_hash"] == hashlib.sha256(bare[0x100000:0x110000]).hexdigest()[:8]
