// SPDX-License-Identifier: Apache-2.0
// A run's memory and time before anything is loaded: the real model, built and run on paper.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "data/loader.h"
#include "memory/gpus.h"
#include "model/clip/config.h"
#include "model/flux/transformer.h"
#include "model/precision.h"
#include "model/vae/vae.h"
#include "train/options.h"

namespace fluxlora::train {

/// What a run may take of a machine.
struct Machine {
  std::string name;                 ///< for people
  int64_t budget = 0;               ///< bytes of the device for this process; 0: no limit
  int64_t context = 0;              ///< what of them the driver takes for itself
  int64_t host_budget = 0;          ///< bytes of pinned host memory; 0: no limit
  std::optional<Rates> rates = {};  ///< nothing: times are not told
};

struct PlanInputs {
  flux::Config config;
  Precision precision;
  RunOptions options;                             ///< filled in (fill_in.h)
  std::vector<BatchShape> shapes;                 ///< of the training batches
  std::set<Size> validated = {};                  ///< sizes of the held-out pictures
  VaeConfig vae{.widths = {128, 256, 512, 512}};  ///< FLUX.1's when its file is not there
  int64_t vae_weights = 0;                        ///< bytes on the device,
  int64_t text_encoder = 0;                       ///< what the larger text encoder takes for a text
  ClipConfig clip = {};                           ///< FLUX.1's when its file is not there
};

struct MemoryOwner {
  std::string name;
  int64_t bytes = 0;
  bool device = true;  ///< else the host's pinned memory
};

struct MemoryPlan {
  int64_t budget = 0;
  flux::Residence residence;
  std::vector<flux::Keep> keep;     ///< by block
  std::vector<MemoryOwner> owners;  ///< of the phase that takes the most
  std::string phase;                ///< its name
  int64_t device_bytes = 0, host_bytes = 0;
  std::optional<double> seconds_per_step;

  /// "12 of 57 blocks keep everything, ...", one line for people.
  std::string summary() const;
};

/// What is planned of a run whose batches have these shapes, and that validates on pictures of all
/// their sizes. `model` may lack all but the
/// transformer: then the sizes of FLUX.1's other networks are assumed. Reads headers alone.
PlanInputs plan_inputs(const RunOptions& options, const ModelFiles& model, bool on_host,
                       const std::vector<BatchShape>& shapes);

/// Settles `model.text_precision` = "auto" for this machine: the captions' states depend on it, so
/// that it is decided once and kept with the run. What was chosen and why, for people; empty when
/// it stays as it is.
std::string settle_text_precision(RunOptions& options, const ModelFiles& model, bool on_host,
                                  const Machine& machine);

/// What the driver and the libraries take of a GPU for a process, as measured (docs/memory.md).
inline constexpr int64_t kDriverContext = int64_t{700} << 20;

/// The device as it is now, within the limits that the user sets. Throws Error (bad_input).
Machine machine_of(const Device& device, const MemoryOptions& options);

/// The fastest plan within the machine's budgets. Throws Error (environment) that names what the
/// smallest plan takes, and what to change, when that is more than the budget.
MemoryPlan plan_memory(const PlanInputs& inputs, const Machine& machine);

/// "16GiB", "16 GB", "16000 MiB" or bytes; `where` names the key. Throws Error (bad_input).
int64_t parse_bytes(const std::string& where, const std::string& text);

}  // namespace fluxlora::train
