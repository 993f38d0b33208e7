// SPDX-License-Identifier: Apache-2.0
#include "config/key_tables.h"

namespace fluxlora::config {
namespace {

/// A part of the model that a single file lacks, or that is to be taken from elsewhere.
RunKey part_key(const char* name, Member<train::RunOptions, std::filesystem::path> at,
                const char* meaning) {
  return {.table = "model",
          .name = name,
          .access = at,
          .meaning = meaning,
          .source = "own",
          .kind = Kind::path,
          .says = Says::origin,
          .absent = "that of `model.path`"};
}

}  // namespace

std::vector<RunKey> model_keys() {
  return {
      {.table = "model",
       .name = "path",
       .access = AT(model.path),
       .meaning =
           "The model: a folder in diffusers' layout, a single file "
           "(`flux1-dev.safetensors`, fp8 files, checkpoints with all parts), or `tiny`, the "
           "built-in one",
       .kind = Kind::model,
       .says = Says::origin,
       .absent = "must be given"},
      part_key("vae", AT(model.vae), "The VAE: `ae.safetensors`, or a folder in diffusers' layout"),
      part_key("clip", AT(model.clip),
               "The CLIP text encoder: `clip_l.safetensors`, or a folder in diffusers' layout"),
      part_key("t5", AT(model.t5),
               "The T5 encoder: `t5xxl_fp16.safetensors` or an fp8 one, or a folder in diffusers' "
               "layout"),
      part_key("clip_tokenizer", AT(model.clip_tokenizer),
               "Folder with CLIP's `vocab.json` and `merges.txt`, or `tokenizer.json`"),
      part_key("t5_tokenizer", AT(model.t5_tokenizer), "Folder with T5's `spiece.model`"),
      {.table = "model",
       .name = "assistant_lora",
       .access = AT(model.assistant_lora),
       .meaning = "A frozen LoRA that is on while training and off in samples and in the result: a "
                  "training adapter, which keeps schnell's distillation whole",
       .source = "ai-toolkit",
       .kind = Kind::path,
       .says = Says::origin,
       .absent = "none"},
      {.table = "model",
       .name = "precision",
       .access = AT(model.precision),
       .meaning = "Format of the frozen weights; `auto` is bf16 on a GPU, f32 on the CPU",
       .source = "own",
       .choices = {"auto", "f32", "bf16", "fp8", "int8", "nf4"}},
      {.table = "model",
       .name = "text_precision",
       .access = AT(model.text_precision),
       .meaning = "Format of T5's weights, which encode the captions; `auto` is bf16 on a GPU, f32 "
                  "on the CPU, and fp8 or nf4 where the memory has no room for those",
       .source = "own",
       .choices = {"auto", "f32", "bf16", "fp8", "int8", "nf4"}},
      {.table = "model",
       .name = "text_tokens",
       .access = AT(model.text_tokens),
       .meaning = "Length to which T5's token states are padded or cut",
       .source = "FLUX.1: 512, schnell 256",
       .unit = "tokens",
       .limits = {.least = 1, .most = 512, .zero_too = true},
       .absent = "0: the model's own"},
  };
}

std::vector<RunKey> subject_keys() {
  return {
      {.table = "subject",
       .name = "name",
       .access = AT(subject.name),
       .meaning = "Name of the run, its folder and its LoRA file",
       .source = "own",
       .kind = Kind::name},
      {.table = "subject",
       .name = "trigger",
       .access = AT(subject.trigger),
       .meaning = "The word that calls the subject or style; it is put into every caption",
       .kind = Kind::word,
       .absent = "must be given"},
      {.table = "subject",
       .name = "kind",
       .access = AT(subject.kind),
       .meaning = "What is learnt: a thing, person or animal, or a style",
       .source = "own",
       .choices = {"subject", "style"}},
  };
}

}  // namespace fluxlora::config
