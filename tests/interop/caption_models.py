# SPDX-License-Identifier: Apache-2.0
"""Makes small models of the kinds that captioners use, with the files that the published ones have.

    python tests/interop/caption_models.py wd14 FOLDER

The weights are random with a fixed seed; inputs, outputs, their names and the files beside are those of the published
models, so the program's way through them is the same.
"""

import csv
import pathlib
import sys
import warnings

import torch


def _export(module, inputs, path, names, outputs, axes=None):
    """An ONNX file by torch's exporter that needs no more than torch and onnx."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), inputs, str(path), dynamo=False, opset_version=17, input_names=names,
                          output_names=outputs, dynamic_axes=axes or {})  # fmt: skip


class Tagger(torch.nn.Module):
    """wd-vit-tagger in small: (N, S, S, 3) blue, green, red in 0..255 -> probabilities (N, tags)."""

    def __init__(self, size, tags):
        super().__init__()
        from transformers import ViTConfig, ViTModel

        self.vit = ViTModel(ViTConfig(image_size=size, patch_size=8, hidden_size=64, num_hidden_layers=3,
                                      num_attention_heads=4, intermediate_size=128), add_pooling_layer=False)  # fmt: skip
        self.head = torch.nn.Linear(64, tags)
        # Random encoders see little of the picture: larger weights make it matter.
        for name, weight in self.vit.named_parameters():
            if weight.dim() >= 2 and "position" not in name:
                torch.nn.init.normal_(weight, std=2 / weight[0].numel() ** 0.5)
        torch.nn.init.normal_(self.head.weight, std=0.3)

    def forward(self, pixels):
        x = pixels.permute(0, 3, 1, 2) / 127.5 - 1
        return torch.sigmoid(self.head(self.vit(x).last_hidden_state.mean(1)))


def make_wd14(folder, size=56):
    """model.onnx and selected_tags.csv: 4 ratings, 60 general tags, 10 characters."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tags = [(name, 9) for name in ("general", "sensitive", "questionable", "explicit")]
    tags += [(f"thing_{i}" if i % 6 else f"={'_' * (i // 6 + 1)}=", 0) for i in range(60)]
    tags += [(f"somebody_({i})", 4) for i in range(10)]
    with open(folder / "selected_tags.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["tag_id", "name", "category", "count"])
        writer.writerows([i, name, category, 1000 - i] for i, (name, category) in enumerate(tags))
    torch.manual_seed(20)
    _export(Tagger(size, len(tags)), (torch.zeros(1, size, size, 3),), folder / "model.onnx", ["input"], ["output"],
            {"input": {0: "batch"}, "output": {0: "batch"}})  # fmt: skip
    return folder


if __name__ == "__main__":
    {"wd14": make_wd14}[sys.argv[1]](sys.argv[2])
