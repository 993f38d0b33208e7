// SPDX-License-Identifier: Apache-2.0
// Pictures from prompts: the sampler of previews and of `fluxlora sample`.
#pragma once

#include <functional>
#include <vector>

#include "data/resize.h"
#include "eval/prompt.h"
#include "model/flux/transformer.h"
#include "model/pipeline.h"

namespace fluxlora::eval {

/// Pure noise (C, h, w), f32, on the host: Draw::sample of `seed`, drawn channel by channel.
HostTensor sample_noise(uint64_t seed, int64_t C, int64_t h, int64_t w);

/// Latents of one size, one picture at a time, through the transformer's ordinary forward. All
/// memory is taken in the constructor.
class Painter {
 public:
  /// `size` in pixels, a multiple of what the model can do (check_size). Adapters are attached
  /// before.
  Painter(flux::Transformer& model, const ModelFiles& folder, Size size, int64_t text_tokens);

  int64_t channels() const { return C_; }
  int64_t height() const { return h_; }  ///< of the latents
  int64_t width() const { return w_; }

  /// Latents (1, h, w, C) f32 on the host, in the model's scaling, from `noise` (C, h, w) by
  /// `steps` Euler steps at this guidance.
  HostTensor paint(const PromptStates& prompt, const Tensor& noise, int64_t steps, double guidance);

 private:
  flux::Transformer& model_;
  SchedulerConfig scheduler_;
  int64_t C_ = 0, h_ = 0, w_ = 0;
  flux::Workspace workspace_;
};

/// Pictures of latents (1, h, w, C): the VAE is loaded for the call.
std::vector<Picture> decode(Device& device, const ModelFiles& folder,
                            const std::vector<HostTensor>& latents);

/// Sides of pictures are multiples of this many pixels: two latents.
int64_t size_step(const ModelFiles& folder);

/// The side that the model was made for: 1024 for FLUX.1, or what vae/config.json says of the
/// built-in model.
int64_t native_side(const std::string& model_path, const ModelFiles& folder);

/// Throws Error (bad_input; `where` names the option) for sides that the model cannot do.
void check_size(const std::string& where, Size size, int64_t step);

}  // namespace fluxlora::eval
