// SPDX-License-Identifier: Apache-2.0
#include "train/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <vector>

#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"
#include "tensor/safetensors.h"
#include "train/averaged.h"

namespace fluxlora::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFormat = "fluxlora state 1";
constexpr const char* kParams = "params";

/// Parameters first, then the optimizer's pieces.
std::vector<optim::StateTensor> pieces(const State& state) {
  std::vector<optim::StateTensor> all{{kParams, state.adapters.params()}};
  if (const lora::AdapterSet* start = state.adapters.start())
    all.push_back({"start", start->params()});
  for (const optim::StateTensor& piece : state.optimizer.state()) all.push_back(piece);
  return all;
}

HostTensor download(Device& device, const Tensor& view) {
  HostTensor host(view.dtype(), {view.size()});
  device.download(host.view.data(), view);
  return host;
}

bool all_finite(const Tensor& host) {
  if (host.dtype() == DType::u8) return true;
  if (host.dtype() == DType::f64)
    return std::all_of(host.as<double>(), host.as<double>() + host.size(),
                       [](double x) { return std::isfinite(x); });
  return std::all_of(host.as<float>(), host.as<float>() + host.size(),
                     [](float x) { return std::isfinite(x); });
}

fs::path state_file(const RunPaths& paths, int64_t step) {
  return paths.checkpoint(step) / "state.safetensors";
}

/// The metadata of a state file, or nothing when it is not one of ours.
std::optional<CheckpointInfo> read_info(const SafetensorsFile& file) {
  const auto& metadata = file.metadata();
  const auto value = [&](const char* key) {
    const auto found = metadata.find(key);
    return found == metadata.end() ? std::string() : found->second;
  };
  if (value("format") != kFormat || !file.contains(kParams)) return std::nullopt;
  CheckpointInfo info{0, value("model"), value("dataset"), value("started")};
  const std::string step = value("step");
  const auto [end, error] = std::from_chars(step.data(), step.data() + step.size(), info.step);
  if (error != std::errc() || end != step.data() + step.size()) return std::nullopt;
  return info;
}

/// All pieces; none of them is on the host any more when it returns.
void write_state(const fs::path& path, const State& state, const Metadata& metadata, int64_t step) {
  std::vector<HostTensor> hosts;
  std::vector<NamedTensor> tensors;
  for (const optim::StateTensor& piece : pieces(state)) {
    hosts.push_back(download(state.device, piece.view));
    tensors.push_back({piece.name, hosts.back().view});
    if (!all_finite(hosts.back().view))
      throw not_finite("\"" + piece.name + "\" after the update", NAN, step);
  }
  write_safetensors(path, std::move(tensors), metadata);
}

Error does_not_fit(const fs::path& file, const std::string& tensor) {
  return bad_input(file.string(), "tensor \"" + tensor + "\" does not fit this run",
                   "the checkpoint is of another run: start anew with another output.path");
}

}  // namespace

Error not_finite(const std::string& what, double value, int64_t step) {
  return bad_input("training", fmt::format("{} at step {} is not finite ({})", what, step, value),
                   "lower train.learning_rate, or clip with train.max_grad_norm; the last "
                   "checkpoint is sound");
}

void save_checkpoint(const RunPaths& paths, const CheckpointInfo& info, const State& state,
                     const exporting::FileStyle& style, const Metadata& lora_metadata) {
  Metadata metadata{{"format", kFormat},
                    {"step", std::to_string(info.step)},
                    {"model", info.model_hash},
                    {"dataset", info.dataset_hash}};
  if (!info.started.empty()) metadata["started"] = info.started;
  make_folder(paths.checkpoints());
  FolderInTheMaking folder(paths.checkpoint(info.step));
  write_state(folder.path() / "state.safetensors", state, metadata, info.step);
  const Averaged averaged(state);
  exporting::write_adapters(folder.path() / "lora.safetensors", state.adapters, state.config, style,
                            lora_metadata);
  folder.finish();
}

std::optional<CheckpointInfo> find_checkpoint(const RunPaths& paths) {
  std::vector<int64_t> steps = step_folders(paths.checkpoints());
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    const fs::path file = state_file(paths, *step);
    try {
      const auto info = read_info(SafetensorsFile(file));
      if (info && info->step == *step) return info;
      log_warning(file.string() + " is not a state of this program and is passed over");
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::internal) throw;
      log_warning(fmt::format("{} is passed over: {}", file.string(), error.message()));
    }
  }
  return std::nullopt;
}

void load_checkpoint(const RunPaths& paths, int64_t step, State& state) {
  const fs::path path = state_file(paths, step);
  const SafetensorsFile file(path);
  for (const optim::StateTensor& piece : pieces(state)) {
    if (!file.contains(piece.name)) throw does_not_fit(path, piece.name);
    const auto& entry = file.entry(piece.name);
    if (entry.dtype != piece.view.dtype() || entry.bytes != piece.view.bytes())
      throw does_not_fit(path, piece.name);
    state.device.upload(piece.view, file.read(piece.name, entry.dtype).view.data());
  }
  state.adapters.refresh();
  if (lora::AdapterSet* start = state.adapters.start()) start->refresh();
  state.step = step;
}

int64_t checkpoint_bytes(const State& state) {
  int64_t bytes = state.adapters.params().bytes();  // lora.safetensors
  for (const optim::StateTensor& piece : pieces(state)) bytes += piece.view.bytes();
  return bytes;
}

}  // namespace fluxlora::train
