// SPDX-License-Identifier: Apache-2.0
// fluxlora doctor: what will work on this machine, and what to do about the rest.
#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "cli/machine.h"
#include "data/cache.h"
#include "data/formats.h"
#include "model/flux/weights.h"
#include "model/pipeline.h"
#include "model/source.h"

namespace fluxlora::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMiB = int64_t{1} << 20, kGiB = int64_t{1} << 30;

/// A warning leaves training possible, a problem does not.
enum class Verdict { ok, warning, problem };

struct Check {
  std::string name, text;
  Verdict verdict = Verdict::ok;
  std::string remedy = "";
};

std::string gib(int64_t bytes) {
  return fmt::format("{:.1f} GiB", static_cast<double>(bytes) / kGiB);
}

Check check_build(const Build& build) {
  return {"program", fmt::format("fluxlora {}, {}, {}, {} CUDA", build.version, build.compiler,
                                 build.instruction_sets.empty()
                                     ? "no vector instructions beyond the base"
                                     : fmt::format("{}", fmt::join(build.instruction_sets, " ")),
                                 build.cuda ? "with" : "without")};
}

Check check_cpu(const Cpu& cpu) {
  Check check{"cpu", fmt::format("{}, {} thread{}", cpu.model.empty() ? "unknown" : cpu.model,
                                 cpu.threads, cpu.threads == 1 ? "" : "s")};
  if (cpu.missing.empty()) return check;
  check.verdict = Verdict::problem;
  check.text += fmt::format("; lacks {}, which this build uses", fmt::join(cpu.missing, ", "));
  check.remedy = "build on this machine, or with the CMake preset release";
  return check;
}

Check check_memory(const std::optional<Memory>& memory) {
  if (!memory) return {"memory", "the system does not tell", Verdict::warning, "none needed"};
  Check check{"memory", fmt::format("{} of {} free", gib(memory->available), gib(memory->total))};
  // The built-in model trains in less than the first figure; the second leaves room for the system.
  if (memory->available < 256 * kMiB) {
    check.verdict = Verdict::problem;
    check.remedy = "close other programs: the built-in model needs about a quarter of a GiB";
  } else if (memory->available < kGiB) {
    check.verdict = Verdict::warning;
    check.remedy = "enough for the built-in model; close other programs for larger ones";
  }
  return check;
}

Check check_disk(const std::string& name, const std::filesystem::path& folder,
                 const std::string& remedy) {
  if (!can_write(folder))
    return {name, folder.string() + " cannot be written", Verdict::problem, remedy};
  const auto bytes = free_bytes(folder);
  if (!bytes)
    return {name, folder.string() + ", free space unknown", Verdict::warning, "check the disk"};
  Check check{name, fmt::format("{}, {} free", folder.string(), gib(*bytes))};
  if (*bytes >= kGiB) return check;
  check.verdict = *bytes < 100 * kMiB ? Verdict::problem : Verdict::warning;
  check.remedy = "make room on the disk: " + remedy;
  return check;
}

Check check_cache() {
  try {
    return check_disk("cache", default_cache_folder(),
                      "set XDG_CACHE_HOME or dataset.cache to a folder with room");
  } catch (const Error& error) {
    return {"cache", error.message(), Verdict::problem, error.hint()};
  }
}

Check check_pictures() {
  try {
    std::vector<std::string> yes, no;
    for (const PictureFormat& format : picture_formats())
      (format.readable ? yes : no).push_back(format.name);
    Check check{"pictures", fmt::format("{}", fmt::join(yes, ", "))};
    const bool has_common = yes.size() >= 3 && yes[0] == "JPEG" && yes[1] == "PNG";
    if (!has_common) {
      check.verdict = Verdict::problem;
      check.remedy = "install libvips with JPEG and PNG support (libvips42 of the distribution)";
    } else if (!no.empty()) {
      check.text += fmt::format("; not {}", fmt::join(no, ", "));
      const auto lacks = [&](const char* name) {
        return std::find(no.begin(), no.end(), name) != no.end();
      };
      if (lacks("AVIF") || lacks("HEIC") || lacks("WebP")) {
        check.verdict = Verdict::warning;
        check.remedy =
            "convert such pictures to JPEG or PNG, or install libheif's decoders "
            "(libheif-plugin-libde265, libheif-plugin-dav1d)";
      }
    }
    return check;
  } catch (const Error& error) {
    return {"pictures", error.message(), Verdict::problem, error.hint()};
  }
}

/// A product and an attention of 16 tokens: they open cuBLAS and cuDNN, or say what is missing.
void try_operations(Device& gpu) {
  constexpr int64_t T = 16, C = 64;
  const Buffer memory = gpu.allocate(8 * T * C * dtype_size(DType::bf16));
  auto* const bytes = static_cast<char*>(memory.data());
  const auto tensor = [&](int64_t i) {
    return Tensor(DType::bf16, {1, T, C}, bytes + i * T * C * dtype_size(DType::bf16));
  };
  Ops& op = gpu.ops();
  op.fill(Tensor(DType::bf16, {8 * T * C}, bytes), 0.1);
  op.linear(tensor(1), tensor(0),
            {WeightFormat::bf16, Tensor(DType::bf16, {C, C}, tensor(4).data())}, {});
  const Tensor lse(DType::f32, {1, 1, T}, bytes);
  op.attention(tensor(4), lse, tensor(1), tensor(2), tensor(3), {.heads = 1});
  gpu.synchronize();
}

Check check_gpu(const Gpu& gpu, const Build& build) {
  if (gpu.models.empty() && gpu.driver.empty())
    return {"gpu", "no NVIDIA driver; training runs on the CPU"};
  std::string text = fmt::format(
      "{}, driver {}",
      gpu.models.empty() ? std::string("no card") : fmt::format("{}", fmt::join(gpu.models, ", ")),
      gpu.driver);
  if (!build.cuda) return {"gpu", text + "; this build has no CUDA, training runs on the CPU"};
  try {
    const auto device = open_device("cuda");
    try_operations(*device);
    const double free = static_cast<double>(device->memory().free) / (int64_t{1} << 30);
    return {"gpu", fmt::format("{}, {:.1f} GiB free, driver {}", device->name(), free, gpu.driver)};
  } catch (const Error& error) {
    return {"gpu", fmt::format("{}; {}: {}", text, error.where(), error.message()),
            Verdict::warning, error.hint()};
  }
}

/// Opens every part's headers; for the built-in model hashes the content too.
Check check_model(const std::string& name, const ModelPaths& paths,
                  const std::optional<Memory>& memory) {
  const bool builtin = is_builtin_model(paths.path);
  try {
    const ModelFiles model = open_model(paths);
    const flux::Config config = flux::read_config(model.transformer);
    flux::check_weights(model.transformer, config);
    const int64_t transformer = TensorSource(model.transformer, Network::transformer).numbers();
    const int64_t rest = TensorSource(model.vae, Network::vae).numbers() +
                         TensorSource(model.clip, Network::clip).numbers() +
                         TensorSource(model.t5, Network::t5).numbers();
    Check check{name, fmt::format("{}: {} + {} blocks of width {}, {:.1f} million numbers in all",
                                  paths.path, config.depth, config.depth_single, config.D(),
                                  static_cast<double>(transformer + rest) / 1e6)};
    if (builtin) check.text += ", SHA-256 " + content_hash(model.parts()).substr(0, 16);
    const int64_t bytes = transformer * 4;  // f32, which the CPU computes in
    if (memory && bytes > memory->available) {
      const bool fits = bytes / 2 <= memory->available;
      check.verdict = fits ? Verdict::warning : Verdict::problem;
      check.text += fmt::format("; its transformer takes {} on the CPU", gib(bytes));
      check.remedy = fits ? "set model.precision = \"bf16\", which takes half of it"
                          : "use a machine with more memory, or the built-in model \"tiny\"";
    }
    return check;
  } catch (const Error& error) {
    const std::string text = error.where() + ": " + error.message();
    return {name, text, Verdict::problem,
            builtin ? "build the program again from whole sources" : error.hint()};
  }
}

const char* word(Verdict verdict) {
  switch (verdict) {
    case Verdict::ok:
      return "ok";
    case Verdict::warning:
      return "warning";
    case Verdict::problem:
      break;
  }
  return "problem";
}

struct Findings {
  Build build;
  Cpu cpu;
  std::optional<Memory> memory;
  Gpu gpu;
  std::vector<Check> checks;

  bool can_train() const {
    return std::none_of(checks.begin(), checks.end(),
                        [](const Check& c) { return c.verdict == Verdict::problem; });
  }
};

Findings examine(const ModelPaths& model) {
  Findings found{build_facts(), cpu_facts(), memory_facts(), gpu_facts(), {}};
  found.checks = {check_build(found.build),
                  check_cpu(found.cpu),
                  check_memory(found.memory),
                  check_disk("disk", ".", "work in a folder that you may write to"),
                  check_cache(),
                  check_pictures(),
                  check_gpu(found.gpu, found.build),
                  check_model("built-in model", {.path = "tiny"}, found.memory)};
  if (!model.path.empty()) found.checks.push_back(check_model("model", model, found.memory));
  return found;
}

void print_json(const Findings& found) {
  Json checks = Json::array();
  for (const Check& check : found.checks)
    checks.push_back({{"name", check.name},
                      {"verdict", word(check.verdict)},
                      {"text", check.text},
                      {"remedy", check.remedy}});
  Json root;
  root["version"] = found.build.version;
  root["can_train"] = found.can_train();
  root["build"] = {{"compiler", found.build.compiler},
                   {"instruction_sets", found.build.instruction_sets},
                   {"blas", found.build.blas},
                   {"cuda", found.build.cuda}};
  root["cpu"] = {{"model", found.cpu.model}, {"threads", found.cpu.threads}};
  if (found.memory)
    root["memory"] = {{"total_bytes", found.memory->total},
                      {"available_bytes", found.memory->available}};
  else
    root["memory"] = nullptr;
  root["gpu"] = {{"models", found.gpu.models}, {"driver", found.gpu.driver}};
  root["checks"] = std::move(checks);
  std::cout << root.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
}

void print_table(const Findings& found) {
  for (const Check& check : found.checks) {
    std::cout << fmt::format("{:<8} {:<15} {}\n", word(check.verdict), check.name, check.text);
    if (!check.remedy.empty())
      std::cout << fmt::format("{:<8} {:<15} -> {}\n", "", "", check.remedy);
  }
  std::cout << (found.can_train() ? "\nTraining can run here.\n"
                                  : "\nTraining cannot run here yet.\n");
}

}  // namespace

void add_doctor(CLI::App& program, int& status) {
  struct Args {
    ModelPaths model;
    bool json = false;
  };
  auto args = std::make_shared<Args>();
  CLI::App* command = program.add_subcommand(
      "doctor", "Say what will work on this machine and what will not, with remedies");
  add_model_options(*command, args->model);
  command->add_flag("--json", args->json, "Print JSON");
  set_example(*command, "fluxlora doctor --model models/FLUX.1-dev");
  command->callback([args, &status] {
    const Findings found = examine(args->model);
    args->json ? print_json(found) : print_table(found);
    status = found.can_train() ? 0 : static_cast<int>(ErrorKind::environment);
  });
}

}  // namespace fluxlora::cli
