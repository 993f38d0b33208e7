// SPDX-License-Identifier: Apache-2.0
// LoRAs of another rank, several in one, and one out of two models.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "export/lora_modules.h"
#include "model/source.h"

namespace fluxlora::exporting {

/// How much of a change may stay.
struct Cut {
  int64_t rank = 16;  ///< at most
  double energy = 1;  ///< as many ranks as keep this part of |s B A|², up to `rank`
};

/// What became of a layer.
struct CutLayer {
  std::string name;
  int64_t rank = 0;
  double kept = 1;  ///< |new|² / |old|²; the relative error is the root of 1 - kept
};

/// A LoRA and what it lost.
struct CutLora {
  LoraModules lora;
  std::vector<CutLayer> layers;
  /// |new|² / |old|² of all layers together.
  double kept = 1;
};

/// Every module by the singular values of its change, alpha = rank; LoKr becomes LoRA, by random
/// projections; a module whose rank is small enough stays as it is. A DoRA keeps its magnitudes.
CutLora resize(const LoraModules& file, const Cut& cut);

enum class Combination {
  concatenate,  ///< ranks add up; exactly the weighted sum of the changes
  svd,          ///< the same, cut
  linear,       ///< PEFT's "linear": sums of the matrices A and B themselves, one rank for all
};

/// One LoRA of several; `weights` one for each file. Layers that some files split are split.
/// Metadata is that of the first. Throws Error (bad_input) for DoRA and LoKr, and in `linear` for
/// ranks that differ.
CutLora combine(const std::vector<LoraModules>& files, const std::vector<double>& weights,
                Combination how, const Cut& cut);

/// The difference of two models' linear layers, `tuned` - `base`, as f32 matrices; a layer without
/// difference gets no module. `progress` hears of each layer. `other_differences` (out) lists the
/// tensors that differ and that no LoRA can hold: biases and norms.
CutLora extract(const TensorSource& base, const TensorSource& tuned, const flux::Config& config,
                const Cut& cut, const std::function<void(const std::string&)>& progress,
                std::vector<std::string>& other_differences);

}  // namespace fluxlora::exporting
