// SPDX-License-Identifier: Apache-2.0
#include "config/key_tables.h"

namespace fluxlora::config {

std::vector<RunKey> validate_keys() {
  return {
      {.table = "validate",
       .name = "every",
       .access = AT(validate.every),
       .meaning = "Steps between validations, which also come before and after; 0: never, and "
                  "every picture is trained",
       .source = "own",
       .unit = "steps",
       .limits = at_least(0, kLargestCount)},
      {.table = "validate",
       .name = "held_out",
       .access = AT(validate.held_out),
       .meaning = "Pictures that are not trained but validate. `auto`: none below 4, two below 12, "
                  "else one in six, at most five; regularisation pictures never",
       .source = "own",
       .unit = "pictures",
       .limits = at_least(1, kLargestCount),
       .automatic = -1},
      {.table = "validate",
       .name = "timesteps",
       .access = AT(validate.timesteps),
       .meaning = "Flow times at which each of them is measured, evenly spread",
       .source = "own",
       .limits = at_least(1, 1000)},
      {.table = "validate",
       .name = "prompts",
       .access = AT(validate.prompts),
       .meaning = "Prompts without the trigger. Every second validation measures how far the model "
                  "has drifted from its base on them",
       .source = "own",
       .absent = "four prompts of our own"},
      {.table = "validate",
       .name = "stop",
       .access = AT(validate.stop),
       .meaning = "End the run when more steps bring nothing (docs/eval.md)",
       .source = "own"},
      {.table = "validate",
       .name = "patience",
       .access = AT(validate.stopping.patience),
       .meaning = "Validations that must have brought something",
       .source = "own",
       .unit = "validations",
       .limits = at_least(1, kLargestCount)},
      {.table = "validate",
       .name = "min_gain",
       .access = AT(validate.stopping.min_gain),
       .meaning = "What they must have brought, as a share of all that the run has gained",
       .source = "own",
       .limits = at_least(0, 1)},
      {.table = "validate",
       .name = "refit",
       .access = AT(validate.refit),
       .meaning = "Afterwards train once more, on all pictures, for as many steps as were best, in "
                  "the run's folder refit; the LoRA that is left is that one",
       .source = "own"},
  };
}

}  // namespace fluxlora::config
