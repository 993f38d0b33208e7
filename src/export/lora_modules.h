// SPDX-License-Identifier: Apache-2.0
// Any LoRA file as matrices of layers: LoRA, DoRA and LoKr, whichever program wrote it.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "export/lora_names.h"
#include "tensor/safetensors.h"

namespace fluxlora::exporting {

/// The change of one layer, or of some of its rows:
///   LoRA  W + s B A
///   DoRA  magnitude ⊙ (W + s B A) / |W + s B A| by rows (flux-facts 7.5)
///   LoKr  W + s w1 ⊗ w2, where each of the two may be a product of two factors
/// Matrices have the types of the file; rows are in BFL's order.
struct LoraModule {
  std::string name;  ///< the file's, without the ending
  Place place;
  int64_t rows = 0, in = 0;
  int64_t rank = 0;                        ///< 0 for a LoKr of two whole matrices
  double alpha = 0;                        ///< the rank when the file says nothing
  std::optional<DType> alpha_dtype;        ///< of the file's own tensor for it
  HostTensor A, B;                         ///< (rank, in), (rows, rank); empty for LoKr
  HostTensor magnitude;                    ///< (rows); DoRA alone
  std::map<std::string, HostTensor> kron;  ///< LoKr: "w1", or "w1_a" and "w1_b"; "w2" likewise

  bool is_lokr() const { return !kron.empty(); }
  bool is_dora() const { return static_cast<bool>(magnitude.view); }
  /// s: alpha / rank; 1 for a LoKr of two whole matrices.
  double scale() const { return rank > 0 ? alpha / static_cast<double>(rank) : 1; }
  /// s B A or s w1 ⊗ w2, f32 (rows, in): what is added to the weight, before a DoRA's scaling.
  HostTensor change() const;
};

/// The modules of a file in the model's order: transformer, CLIP, T5.
struct LoraModules {
  std::filesystem::path path;
  std::map<std::string, std::string> metadata;
  flux::Config sizes;  ///< of the transformer, as far as the file's modules show them
  std::vector<LoraModule> modules;
};

/// The file that `path` means: itself, or in a folder of PEFT, of a diffusers or SimpleTuner
/// checkpoint or of ours the adapter_model, pytorch_lora_weights or lora .safetensors. Throws Error
/// (bad_input) when a folder has none of them.
std::filesystem::path lora_file_of(const std::filesystem::path& path);

/// Reads a LoRA of any layout from lora_file_of(path). PEFT's adapter_config.json beside it counts.
/// Alpha is the file's own, else that of PEFT's configuration, else the rank. Throws Error
/// (bad_input) naming file and key when a key fits no layer of FLUX.1, a pair is incomplete, a
/// shape is wrong, two modules change the same rows, a number is not finite or alpha is 0.
LoraModules read_lora_modules(const std::filesystem::path& path);

/// Exchanges the upper and the lower half of a matrix's rows: final_layer's shift and scale, which
/// diffusers has the other way round.
void swap_halves(const Tensor& rows);

}  // namespace fluxlora::exporting
