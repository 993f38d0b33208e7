// SPDX-License-Identifier: Apache-2.0
#include "eval/painter.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/error.h"
#include "base/file.h"
#include "base/philox.h"
#include "flow/euler.h"
#include "flow/pack.h"
#include "model/json_file.h"
#include "model/precision.h"
#include "model/vae/vae.h"
#include "ops/transfer.h"

namespace fluxlora::eval {
namespace {

constexpr int64_t kFluxSide = 1024;
constexpr int64_t kLargestSide = 8192;

/// Rows and columns of image tokens.
flux::Sizes sizes_of(flux::Transformer& model, const ModelFiles& folder, Size size,
                     int64_t text_tokens) {
  const int64_t step = size_step(folder);
  return model.sizes(1, text_tokens, size.height / step, size.width / step);
}

}  // namespace

HostTensor sample_noise(uint64_t seed, int64_t C, int64_t h, int64_t w) {
  HostTensor noise(DType::f32, {C, h, w});
  Philox random(seed, Draw::sample);
  std::generate_n(noise.view.as<float>(), noise.view.size(),
                  [&] { return static_cast<float>(random.normal()); });
  return noise;
}

int64_t size_step(const ModelFiles& folder) {
  return 2 * read_vae_config(folder.vae).factor();
}

int64_t native_side(const std::string& model_path, const ModelFiles& folder) {
  if (!is_builtin_model(model_path) || !is_builtin(folder.vae)) return kFluxSide;
  return JsonFile(folder.vae / "config.json").integer_from("sample_size", 1);
}

void check_size(const std::string& where, Size size, int64_t step) {
  for (const int64_t side : {size.width, size.height})
    if (side < step || side > kLargestSide || side % step)
      throw bad_input(where,
                      fmt::format("{}x{} is not a size of this model", size.width, size.height),
                      fmt::format("width and height are multiples of {} from {} to {}", step, step,
                                  kLargestSide));
}

Painter::Painter(flux::Transformer& model, const ModelFiles& folder, Size size, int64_t text_tokens)
    : model_(model),
      scheduler_(read_scheduler_config(folder)),
      C_(model.config().in_channels / 4),
      workspace_(model, sizes_of(model, folder, size, text_tokens)) {
  h_ = 2 * workspace_.sizes().rows;
  w_ = 2 * workspace_.sizes().columns;
}

HostTensor Painter::paint(const PromptStates& prompt, const Tensor& noise, int64_t steps,
                          double guidance) {
  Device& device = model_.device();
  const flux::Inputs& in = workspace_.inputs();
  const int64_t N = workspace_.sizes().N();
  HostTensor latents(DType::f32, {1, h_, w_, C_}), packed(DType::f32, {1, N, 4 * C_});
  flow::channels_last(latents.view, noise.reshaped({1, C_, h_, w_}));
  flow::pack(packed.view, latents.view);
  upload_as(device, in.img, packed.view);
  upload_as(device, in.txt, prompt.txt.view);
  upload_as(device, in.pooled, prompt.pooled.view);
  device.ops().fill(in.guidance, guidance);
  flow::sample(device, workspace_, flow::sampling_times(scheduler_, steps, N));
  download_as(device, packed.view, in.img);
  flow::unpack(latents.view, packed.view);
  return latents;
}

std::vector<Picture> decode(Device& device, const ModelFiles& folder,
                            const std::vector<HostTensor>& latents) {
  std::vector<Picture> pictures;
  const DType act = encoder_dtype(device);
  Vae vae(device, folder.vae, act);
  for (const HostTensor& one : latents) {
    const int64_t H = one.view.dim(1) * vae.factor(), W = one.view.dim(2) * vae.factor();
    vae.prepare(1, H, W);
    HostTensor pixels(DType::f32, {1, H, W, 3});
    const Buffer pixel_memory = device.allocate(pixels.view.size() * dtype_size(act));
    const Buffer latent_memory = device.allocate(one.view.size() * dtype_size(act));
    const Tensor result(act, {1, H, W, 3}, pixel_memory.data());
    const Tensor source(act, {1, one.view.dim(1), one.view.dim(2), one.view.dim(3)},
                        latent_memory.data());
    upload_as(device, source, one.view);
    vae.decode(result, source);
    download_as(device, pixels.view, result);
    pictures.push_back(model_to_pixels(pixels.view.item(0)));
  }
  return pictures;
}

}  // namespace fluxlora::eval
