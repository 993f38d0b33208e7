// SPDX-License-Identifier: Apache-2.0
#include "cli/machine.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include <cblas.h>
#include <fmt/format.h>
#include <unistd.h>

#include "base/parallel.h"

namespace fluxlora::cli {

namespace fs = std::filesystem;

namespace {

/// An instruction set that the compiler was allowed to use, and whether the processor has it.
struct InstructionSet {
  const char* name;
  bool present;
};

std::vector<InstructionSet> instruction_sets() {
  std::vector<InstructionSet> sets;
#ifdef __AVX2__
  sets.push_back({"avx2", __builtin_cpu_supports("avx2") != 0});
#endif
#ifdef __FMA__
  sets.push_back({"fma", __builtin_cpu_supports("fma") != 0});
#endif
#ifdef __AVX512F__
  sets.push_back({"avx512f", __builtin_cpu_supports("avx512f") != 0});
#endif
#ifdef __AVX512BW__
  sets.push_back({"avx512bw", __builtin_cpu_supports("avx512bw") != 0});
#endif
  return sets;
}

/// What follows "NAME" and a colon in a file of such lines; empty without.
std::string field(const fs::path& path, const std::string& name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(name)) continue;
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const size_t first = line.find_first_not_of(" \t", colon + 1);
    return first == std::string::npos ? "" : line.substr(first);
  }
  return "";
}

std::optional<int64_t> number_in(const fs::path& path) {
  std::ifstream file(path);
  int64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

std::optional<int64_t> meminfo(const std::string& name) {
  const std::string text = field("/proc/meminfo", name + ":");  // "16316412 kB"
  if (text.empty()) return std::nullopt;
  return std::strtoll(text.c_str(), nullptr, 10) * 1024;
}

fs::path nearest_existing(fs::path path) {
  std::error_code error;
  path = fs::absolute(path, error);
  while (!fs::exists(path, error) && path.has_relative_path()) path = path.parent_path();
  return path;
}

}  // namespace

Build build_facts() {
  Build build;
  build.version = FLUXLORA_VERSION;
#ifdef FLUXLORA_WITH_CUDA
  build.cuda = true;
#endif
#if defined(__clang__)
  build.compiler = fmt::format("Clang {}.{}", __clang_major__, __clang_minor__);
#elif defined(__GNUC__)
  build.compiler = fmt::format("GCC {}.{}", __GNUC__, __GNUC_MINOR__);
#endif
  build.blas = ::openblas_get_config();
  while (build.blas.ends_with(' ')) build.blas.pop_back();
  for (const InstructionSet& set : instruction_sets())
    build.instruction_sets.emplace_back(set.name);
  return build;
}

Cpu cpu_facts() {
  Cpu cpu;
  cpu.model = field("/proc/cpuinfo", "model name");
  cpu.threads = thread_count();
  for (const InstructionSet& set : instruction_sets())
    if (!set.present) cpu.missing.emplace_back(set.name);
  return cpu;
}

std::optional<Memory> memory_facts() {
  const auto total = meminfo("MemTotal"), available = meminfo("MemAvailable");
  if (!total || !available) return std::nullopt;
  Memory memory{*total, *available};
  // A container may have less than the machine.
  const auto limit = number_in("/sys/fs/cgroup/memory.max");
  if (limit && *limit < memory.total) {
    const int64_t used = number_in("/sys/fs/cgroup/memory.current").value_or(0);
    memory.total = *limit;
    memory.available = std::min(memory.available, std::max<int64_t>(*limit - used, 0));
  }
  return memory;
}

Gpu gpu_facts() {
  Gpu gpu;
  std::error_code error;
  for (const auto& card : fs::directory_iterator("/proc/driver/nvidia/gpus", error)) {
    const std::string model = field(card.path() / "information", "Model");
    gpu.models.push_back(model.empty() ? "NVIDIA" : model);
  }
  std::sort(gpu.models.begin(), gpu.models.end());
  std::ifstream version("/sys/module/nvidia/version");
  if (!(version >> gpu.driver)) gpu.driver.clear();
  if (gpu.driver.empty() && !gpu.models.empty()) gpu.driver = "of unknown version";
  return gpu;
}

std::optional<int64_t> free_bytes(const fs::path& path) {
  std::error_code error;
  const fs::space_info space = fs::space(nearest_existing(path), error);
  if (error) return std::nullopt;
  return static_cast<int64_t>(space.available);
}

bool can_write(const fs::path& folder) {
  const fs::path existing = nearest_existing(folder);
  std::error_code error;
  return fs::is_directory(existing, error) && ::access(existing.c_str(), W_OK | X_OK) == 0;
}

}  // namespace fluxlora::cli
