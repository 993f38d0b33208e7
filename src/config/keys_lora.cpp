// SPDX-License-Identifier: Apache-2.0
#include "config/key_tables.h"
#include "train/automatic.h"

namespace fluxlora::config {

std::vector<RunKey> lora_keys() {
  return {
      {.table = "lora",
       .name = "type",
       .access = AT(lora.type),
       .meaning = "`lora`; `dora`, which trains the norms of the weight's rows apart from their "
                  "directions; or `lokr`, a Kronecker product, which is smaller (docs/training.md)",
       .source = "the most common",
       .choices = {"lora", "dora", "lokr"}},
      {.table = "lora",
       .name = "factor",
       .access = AT(lora.factor),
       .meaning = "LoKr: the smaller factor has at most so many rows and columns",
       .source = "LyCORIS' examples",
       .limits = at_least(1, 64)},
      {.table = "lora",
       .name = "rank",
       .access = AT(lora.rank),
       .meaning =
           "Rank of the adapters: how much they can learn, and how large the file is; `auto` "
           "chooses by the number and variety of the pictures, and alpha with it",
       .source = "common for subjects",
       .limits = at_least(1, 4096),
       .automatic = train::kAutomatic},
      {.table = "lora",
       .name = "alpha",
       .access = AT(lora.alpha),
       .meaning = "The adapters' change is multiplied by alpha / rank, each by its own rank",
       .source = "equal to the rank: factor 1 for every reader",
       .limits = above(0)},
      {.table = "lora",
       .name = "targets",
       .access = AT(lora.targets),
       .meaning = "Layers with an adapter: one of the sets `default`, `kohya`, `ai-toolkit`, "
                  "`diffusers`, or patterns over module names such as `*.attn.to_q`, where {7-12} "
                  "stands for each of these numbers",
       .source = "every linear layer of attention and feed-forward"},
      {.table = "lora",
       .name = "exclude",
       .access = AT(lora.exclude),
       .meaning = "Patterns over the layers of `targets`: these get no adapter after all",
       .source = "own"},
      {.table = "lora",
       .name = "ranks",
       .access = AT(lora.ranks),
       .meaning = "Other ranks by layer: `PATTERN = RANK`, with patterns as in `targets`; the last "
                  "that fits counts, and alpha stays",
       .source = "PEFT's rank_pattern"},
      {.table = "lora",
       .name = "text_encoder",
       .access = AT(lora.text_encoder),
       .meaning = "CLIP's text model gets adapters too, of all its linear layers; "
                  "`text_encoder.*` names them in `exclude`, `ranks` and `train.rates`",
       .source = "kohya, diffusers"},
      {.table = "lora",
       .name = "rslora",
       .access = AT(lora.rslora),
       .meaning = "The change is multiplied by alpha / sqrt(rank), so that a larger rank learns at "
                  "the same pace; set alpha to sqrt(rank) for a factor of 1",
       .source = "Kalajdzievski 2023, PEFT"},
      {.table = "lora",
       .name = "dropout",
       .access = AT(lora.dropout),
       .meaning = "Share of the adapters' inner values that is set aside at random in each step",
       .source = "kohya, diffusers: none",
       .limits = {.least = 0, .most = 1, .below_most = true}},
      {.table = "lora",
       .name = "dropout_of",
       .access = AT(lora.dropout_of),
       .meaning =
           "What `dropout` sets aside: values between A and B (`rank`, as kohya) or A's input "
           "(`input`, as PEFT), which takes more memory",
       .source = "kohya",
       .choices = {"rank", "input"}},
      {.table = "lora",
       .name = "continue_from",
       .access = AT(lora.continue_from),
       .meaning =
           "A LoRA to go on from: a file of any layout (docs/formats.md), or the folder of a "
           "checkpoint or of PEFT; its layers, ranks and alphas replace `rank`, `alpha` and "
           "`targets`",
       .source = "own",
       .kind = Kind::path,
       .says = Says::origin,
       .absent = "none"},
      {.table = "lora",
       .name = "init",
       .access = AT(lora.init),
       .meaning = "The start. B at 0 and A `kaiming` U(-1/sqrt(in), 1/sqrt(in)) or `gaussian` "
                  "N(0, 1/rank²); or both off 0 and that start subtracted: `pissa`, the weight's "
                  "principal part, `lora_ga`, the directions of the first gradients",
       .source = "PEFT",
       .choices = {"kaiming", "gaussian", "pissa", "lora_ga"}},
      {.table = "lora",
       .name = "ga_scale",
       .access = AT(lora.ga_scale),
       .meaning = "Size of LoRA-GA's start: `stable` rows^(1/4) / sqrt(ga_gamma), or `gd` rank / "
                  "alpha",
       .source = "Wang, Yu, Li 2024",
       .choices = {"stable", "gd"}},
      {.table = "lora",
       .name = "ga_gamma",
       .access = AT(lora.ga_gamma),
       .meaning = "LoRA-GA's gamma: larger means a smaller start",
       .source = "Wang, Yu, Li 2024",
       .limits = above(0)},
      {.table = "lora",
       .name = "ga_batches",
       .access = AT(lora.ga_batches),
       .meaning =
           "Batches whose gradient LoRA-GA starts from; each costs two forwards and backwards "
           "before the first step",
       .source = "own",
       .unit = "batches",
       .limits = at_least(1, 100000)},
  };
}

}  // namespace fluxlora::config
