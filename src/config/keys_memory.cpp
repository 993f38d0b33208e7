// SPDX-License-Identifier: Apache-2.0
#include "config/key_tables.h"

namespace fluxlora::config {

std::vector<RunKey> memory_keys() {
  return {
      {.table = "memory",
       .name = "vram",
       .access = AT(memory.vram),
       .meaning = "Memory of the device for this run, as nvidia-smi shows it: `\"16GiB\"`",
       .source = "own",
       .says = Says::place,
       .absent = "what is free"},
      {.table = "memory",
       .name = "ram",
       .access = AT(memory.ram),
       .meaning = "Pinned memory of the host for weights that visit the device",
       .source = "own",
       .says = Says::place,
       .absent = "no limit"},
  };
}

}  // namespace fluxlora::config
