// SPDX-License-Identifier: Apache-2.0
#include "config/key_tables.h"

namespace fluxlora::config {

std::vector<RunKey> dataset_keys() {
  return {
      {.table = "dataset",
       .name = "path",
       .access = Member<train::RunOptions, std::string>(nullptr),
       .meaning = "The folder of pictures, with a `.txt` caption beside each; short for one "
                  "`[[dataset.folders]]`",
       .kind = Kind::folder,
       .absent = "must be given, unless there are `[[dataset.folders]]`"},
      {.table = "dataset",
       .name = "resolution",
       .access = AT(dataset.resolution),
       .meaning = "Side of the square that pictures are cropped and resized to; with "
                  "`buckets` the root of their area",
       .source = "FLUX.1: 1024, built-in model: 128",
       .unit = "pixels",
       .limits = side(true),
       .absent = "0: the model's own"},
      {.table = "dataset",
       .name = "buckets",
       .access = AT(dataset.buckets),
       .meaning =
           "Pictures keep their shape (up to 4:1): each is trained as the rectangle of about "
           "the square's area that is nearest to it",
       .source = "own"},
      {.table = "dataset",
       .name = "bucket_step",
       .access = AT(dataset.bucket_step),
       .meaning = "The sides of buckets are multiples of this",
       .source = "kohya's sd-scripts",
       .unit = "pixels",
       .limits = side(false)},
      {.table = "dataset",
       .name = "max_upscale",
       .access = AT(dataset.max_upscale),
       .meaning = "A picture that would have to be enlarged more than this is not trained at that "
                  "resolution, and refused when no other is left",
       .source = "own",
       .unit = "times",
       .limits = at_least(1)},
      {.table = "dataset",
       .name = "cache",
       .access = AT(dataset.cache),
       .meaning = "Folder in which latents and text states are kept",
       .source = "XDG base directories",
       .kind = Kind::path,
       .says = Says::place,
       .absent = "`$XDG_CACHE_HOME/fluxlora` or `~/.cache/fluxlora`"},
  };
}

#define FOLDER(member) FLUXLORA_MEMBER(FolderOptions, member)

std::span<const FolderKey> folder_keys() {
  static const std::string table = "dataset.folders";
  static const std::vector<FolderKey> keys{
      {.table = table,
       .name = "path",
       .access = FOLDER(path),
       .meaning = "The folder of pictures",
       .kind = Kind::path,
       .says = Says::origin,
       .absent = "must be given"},
      {.table = table,
       .name = "repeats",
       .access = FOLDER(repeats),
       .meaning = "How often each of its pictures comes in an epoch",
       .source = "own",
       .unit = "times",
       .limits = at_least(1, 100'000)},
      {.table = table,
       .name = "trigger",
       .access = FOLDER(trigger),
       .meaning = "Trigger word of its captions instead of subject.trigger; empty: none",
       .source = "own",
       .absent = "subject.trigger"},
      {.table = table,
       .name = "caption",
       .access = FOLDER(caption),
       .meaning = "Caption of pictures that have no `.txt` file",
       .source = "own",
       .absent = "the trigger word alone"},
      {.table = table,
       .name = "regularisation",
       .access = FOLDER(regularisation),
       .meaning = "Pictures of other things, trained without the trigger word to keep the model "
                  "as it is",
       .source = "Ruiz et al. 2023 (prior preservation)"},
      {.table = table,
       .name = "weight",
       .access = FOLDER(weight),
       .meaning = "Multiplies the loss of its pictures",
       .source = "own",
       .limits = above(0)},
      {.table = table,
       .name = "resolutions",
       .access = FOLDER(resolutions),
       .meaning = "Each picture is trained at each of these sides",
       .source = "own",
       .unit = "pixels",
       .limits = side(false),
       .absent = "dataset.resolution"},
      {.table = table,
       .name = "mask",
       .access = FOLDER(mask),
       .meaning = "A folder of masks, each called and sized as its picture: white counts in the "
                  "loss, black does not",
       .source = "own",
       .kind = Kind::path,
       .says = Says::origin,
       .absent = "none"},
      {.table = table,
       .name = "alpha_mask",
       .access = FOLDER(alpha_mask),
       .meaning = "A picture's transparency is its mask",
       .source = "own"},
      {.table = table,
       .name = "unmasked_weight",
       .access = FOLDER(unmasked_weight),
       .meaning = "How much what a mask leaves out counts all the same",
       .source = "own",
       .limits = {.least = 0, .most = 1, .below_most = true}},
  };
  return keys;
}

}  // namespace fluxlora::config
