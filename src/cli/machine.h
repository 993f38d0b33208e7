// SPDX-License-Identifier: Apache-2.0
// What the machine has and how the program was built: facts for `doctor`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace fluxlora::cli {

struct Build {
  std::string version, compiler, blas;
  std::vector<std::string> instruction_sets;  ///< that the compiler was allowed to use: "avx2"
  bool cuda = false;
};
Build build_facts();

struct Cpu {
  std::string model;
  int threads = 0;                   ///< that this process may use
  std::vector<std::string> missing;  ///< instruction sets of the build that the processor lacks
};
Cpu cpu_facts();

struct Memory {
  int64_t total = 0, available = 0;  ///< bytes, within the limit of the process's control group
};
/// Nothing where the system does not tell.
std::optional<Memory> memory_facts();

struct Gpu {
  std::vector<std::string> models;
  std::string driver;  ///< its version; empty: none loaded
};
Gpu gpu_facts();

/// Free bytes for this user where `path`, or the nearest folder above it that exists, lies.
std::optional<int64_t> free_bytes(const std::filesystem::path& path);

/// Whether files could be written into `folder`, or it could be made.
bool can_write(const std::filesystem::path& folder);

}  // namespace fluxlora::cli
