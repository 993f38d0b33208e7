# SPDX-License-Identifier: Apache-2.0
"""Makes small models of the kinds that look at pictures, with the files that the published ones have.

    python tests/interop/caption_models.py wd14|florence2|dinov2|clip FOLDER

The weights are random with a fixed seed; inputs, outputs, their names and the files beside are those of the published
models, so the program's way through them is the same.
"""

import csv
import json
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




class _Part(torch.nn.Module):
    """A piece of a model as a module of its own."""

    def __init__(self, run, *owned):
        super().__init__()
        self.run, self.owned = run, torch.nn.ModuleList(owned)

    def forward(self, *inputs):
        return self.run(*inputs)


def florence2_model(vocabulary, projection=48):
    """Florence2ForConditionalGeneration in small; its words depend on the picture."""
    from transformers import BartConfig, Florence2Config, Florence2ForConditionalGeneration, Florence2VisionConfig

    vision = Florence2VisionConfig(depths=(1, 1, 1, 1), embed_dim=(16, 32, 48, 64), num_heads=(1, 2, 3, 4),
                                   num_groups=(1, 2, 3, 4), window_size=4, projection_dim=projection)  # fmt: skip
    text = BartConfig(vocab_size=vocabulary, d_model=projection, encoder_layers=2, decoder_layers=2,
                      encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=96, decoder_ffn_dim=96,
                      max_position_embeddings=128)  # fmt: skip
    config = Florence2Config(vision_config=vision, text_config=text, image_token_id=vocabulary - 1)
    config._attn_implementation = "eager"
    torch.manual_seed(3)
    model = Florence2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() >= 2:
                scale = 1.0 if "shared" in name or "embed" in name else 1.5
                weight.normal_(std=scale / weight[0].numel() ** 0.5)
    return model


def make_florence2(folder, size=64):
    """The four ONNX files, a byte-pair vocabulary of its own, the configurations beside them. Gives the folder and
    the model itself."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import BartTokenizer

    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pairs = ByteLevelBPETokenizer()
    words = ["What does the image describe?", "Describe in detail what is shown in the image.",
             "Describe with a paragraph what is shown in the image.", "a cat on a red mat, and it's 12 o'clock"]  # fmt: skip
    pairs.train_from_iterator(words * 9, vocab_size=400, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    pairs.save_model(str(folder))
    BartTokenizer.from_pretrained(folder).save_pretrained(folder)
    vocabulary = pairs.get_vocab_size() + 1  # and the place of a picture
    model = florence2_model(vocabulary)
    core = model.model.language_model
    hidden = core.config.d_model
    states, mask = torch.zeros(1, 9, hidden), torch.ones(1, 9, dtype=torch.long)
    onnx = folder / "onnx"
    onnx.mkdir(exist_ok=True)

    _export(_Part(lambda x: model.get_image_features(x).pooler_output, model), (torch.zeros(1, 3, size, size),),
            onnx / "vision_encoder.onnx", ["pixel_values"], ["image_features"])  # fmt: skip
    _export(_Part(model.get_input_embeddings(), model), (torch.zeros(2, 3, dtype=torch.long),),
            onnx / "embed_tokens.onnx", ["input_ids"], ["inputs_embeds"],
            {"input_ids": {0: "N", 1: "T"}})  # fmt: skip
    _export(_Part(lambda m, e: core.encoder(attention_mask=m, inputs_embeds=e).last_hidden_state, core),
            (mask, states), onnx / "encoder_model.onnx", ["attention_mask", "inputs_embeds"], ["last_hidden_state"],
            {"attention_mask": {0: "N", 1: "S"}, "inputs_embeds": {0: "N", 1: "S"}})  # fmt: skip

    def decode(mask, states, embeds):
        seen = core.decoder(encoder_attention_mask=mask, encoder_hidden_states=states, inputs_embeds=embeds,
                            use_cache=False).last_hidden_state  # fmt: skip
        return model.lm_head(seen)

    _export(_Part(decode, model), (mask.expand(2, -1), states.expand(2, -1, -1), torch.zeros(2, 4, hidden)),
            onnx / "decoder_model.onnx", ["encoder_attention_mask", "encoder_hidden_states", "inputs_embeds"],
            ["logits"], {"encoder_attention_mask": {0: "N", 1: "S"}, "encoder_hidden_states": {0: "N", 1: "S"},
                         "inputs_embeds": {0: "N", 1: "T"}})  # fmt: skip
    generation = {"bos_token_id": 0, "decoder_start_token_id": 2, "early_stopping": True, "eos_token_id": 2,
                  "forced_bos_token_id": 0, "forced_eos_token_id": 2, "no_repeat_ngram_size": 3, "num_beams": 3,
                  "pad_token_id": 1}  # fmt: skip
    picture = {"do_resize": True, "size": {"height": size, "width": size}, "resample": 3, "rescale_factor": 1 / 255,
               "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "preprocessor_config.json").write_text(json.dumps(picture))
    return folder, model


def _make_eyes(folder, model, output, processor):
    """onnx/model.onnx and, one folder up, preprocessor_config.json; large random weights, so that pictures matter."""
    folder = pathlib.Path(folder)
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    for name, weight in model.named_parameters():
        if weight.dim() >= 2 and "position" not in name:
            torch.nn.init.normal_(weight, std=2 / weight[0].numel() ** 0.5)
    _export(_Part(lambda x: getattr(model(pixel_values=x), output), model), (torch.zeros(1, 3, 56, 56),),
            folder / "onnx/model.onnx", ["pixel_values"], [output])  # fmt: skip
    processor.save_pretrained(folder)
    return folder


def make_dinov2(folder):
    """DINOv2 in small: all places, of which the first is the picture's."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    torch.manual_seed(22)
    config = Dinov2Config(image_size=56, patch_size=14, hidden_size=48, num_hidden_layers=2, num_attention_heads=4)
    processor = BitImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56}, resample=3,
                                  do_center_crop=True, image_mean=[0.485, 0.456, 0.406],
                                  image_std=[0.229, 0.224, 0.225], do_convert_rgb=True)  # fmt: skip
    return _make_eyes(folder, Dinov2Model(config), "last_hidden_state", processor)


def make_clip_eyes(folder):
    """CLIP's vision part in small: image_embeds."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(23)
    config = CLIPVisionConfig(image_size=56, patch_size=14, hidden_size=48, intermediate_size=96, num_hidden_layers=2,
                              num_attention_heads=4, projection_dim=24)  # fmt: skip
    processor = CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    return _make_eyes(folder, CLIPVisionModelWithProjection(config), "image_embeds", processor)


if __name__ == "__main__":
    {"wd14": make_wd14, "florence2": make_florence2, "dinov2": make_dinov2, "clip": make_clip_eyes}[sys.argv[1]](sys.argv[2])
