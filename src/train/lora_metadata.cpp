// SPDX-License-Identifier: Apache-2.0
#include "train/lora_metadata.h"

#include <fmt/format.h>

namespace fluxlora::train {

Metadata lora_metadata(const RunOptions& options, const LoraOrigin& origin) {
  const int64_t side = options.dataset.resolution;
  Metadata metadata{
      {"format", "pt"},
      {"fluxlora.trigger", options.subject.trigger},
      {"fluxlora.config", origin.identity},
      {"modelspec.sai_model_spec", "1.0.1"},
      {"modelspec.architecture", origin.guided ? "flux-1-dev/lora" : "flux-1-schnell/lora"},
      {"modelspec.implementation", "https://github.com/black-forest-labs/flux"},
      {"modelspec.title", options.subject.name},
      {"modelspec.trigger_phrase", options.subject.trigger},
      {"modelspec.resolution", fmt::format("{}x{}", side, side)},
      {"ss_base_model_version", "flux1"},
      {"ss_output_name", options.subject.name},
      {"ss_learning_rate", fmt::format("{}", options.train.schedule.learning_rate)},
      {"ss_max_train_steps", std::to_string(options.train.steps)},
      {"ss_steps", std::to_string(origin.step)},
      {"ss_seed", std::to_string(options.train.seed)},
      {"ss_num_train_images", std::to_string(origin.pictures)}};
  if (!origin.started.empty()) metadata["fluxlora.started"] = origin.started;
  return metadata;
}

}  // namespace fluxlora::train
