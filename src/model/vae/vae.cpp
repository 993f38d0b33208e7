// SPDX-License-Identifier: Apache-2.0
#include "model/vae/vae.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "model/vae/network.h"

namespace fluxlora {
namespace {

template <typename T>
void latents_as(const Tensor& latents, const Tensor& moments, const Tensor& noise,
                const VaeConfig& config) {
  const int64_t C = latents.dim(-1), rows = latents.size() / C;
  for (int64_t row = 0; row < rows; ++row) {
    const T* mean = moments.as<const T>() + row * 2 * C;
    for (int64_t c = 0; c < C; ++c) {
      double z = mean[c];
      if (noise) {
        const double logvar = std::clamp<double>(mean[C + c], -30, 20);
        z += std::exp(logvar / 2) * noise.as<const T>()[row * C + c];
      }
      latents.as<T>()[row * C + c] = static_cast<T>((z - config.shift) * config.scaling);
    }
  }
}

/// A plan's slots, in the order in which memory is taken.
void take_slots(Arena& arena, DType dtype, int64_t largest, Tensor* slots) {
  for (int i = 0; i < 3; ++i) slots[i] = arena.take("vae activations", dtype, {largest});
}

int64_t moment_count(const VaeConfig& config, int64_t B, int64_t H, int64_t W) {
  return B * (H / config.factor()) * (W / config.factor()) * 2 * config.latent_channels;
}

}  // namespace

void latents_of_posterior(const Tensor& latents, const Tensor& moments, const Tensor& noise,
                          const VaeConfig& config) {
  CHECK(latents.contiguous() && moments.contiguous() && moments.size() == 2 * latents.size() &&
            (!noise || (noise.contiguous() && noise.size() == latents.size())),
        "latents_of_posterior: " + moments.describe());
  if (latents.dtype() == DType::f64)
    latents_as<double>(latents, moments, noise, config);
  else
    latents_as<float>(latents, moments, noise, config);
}

Vae::Vae(Device& device, const std::filesystem::path& path, DType dtype)
    : device_(device),
      config_(read_vae_config(path)),
      dtype_(dtype),
      weights_(device, path, config_, dtype) {}

int64_t Vae::workspace_bytes(const VaeConfig& config, DType dtype, int64_t B, int64_t H,
                             int64_t W) {
  Arena measuring;
  Tensor slots[3];
  take_slots(measuring, dtype, vae::largest_activation(config, B, H, W), slots);
  measuring.take("vae activations", dtype, {moment_count(config, B, H, W)});
  return measuring.used();
}

void Vae::prepare(int64_t B, int64_t H, int64_t W) {
  CHECK(B > 0 && H > 0 && W > 0 && H % factor() == 0 && W % factor() == 0,
        "Vae::prepare: sizes are multiples of " + std::to_string(factor()));
  const int64_t largest = vae::largest_activation(config_, B, H, W);
  const int64_t moments = moment_count(config_, B, H, W);
  if (slots_[0] && slots_[0].size() >= largest && moments_.size() >= moments) return;
  memory_ = Arena();  // the old plan's memory goes first
  memory_ = Arena(device_, workspace_bytes(config_, dtype_, B, H, W));
  take_slots(memory_, dtype_, largest, slots_);
  moments_ = memory_.take("vae activations", dtype_, {moments});
}

void Vae::encode_moments(const Tensor& moments, const Tensor& pixels) {
  CHECK(slots_[0] && pixels.rank() == 4 && pixels.dtype() == dtype_, "Vae::encode: not prepared");
  CHECK(pixels.dim(1) % factor() == 0 && pixels.dim(2) % factor() == 0 &&
            moments.dim(1) * factor() == pixels.dim(1) &&
            moments.dim(2) * factor() == pixels.dim(2),
        "Vae::encode: " + pixels.describe() + " to " + moments.describe());
  vae::Network(device_.ops(), config_, slots_).encode(moments, pixels, weights_.encoder);
}

void Vae::encode(const Tensor& latents, const Tensor& pixels, const Tensor& noise) {
  const int64_t B = latents.dim(0), h = latents.dim(1), w = latents.dim(2), C = latents.dim(3);
  CHECK(C == latent_channels(), "Vae::encode: " + latents.describe());
  const Tensor moments = moments_.slice(0, 0, B * h * w * 2 * C).reshaped({B, h, w, 2 * C});
  encode_moments(moments, pixels);
  // The posterior's few numbers are computed on the host, in double: they go into the cache anyway.
  HostTensor wide(DType::f64, {B, h, w, 2 * C}), result(DType::f64, {B, h, w, C});
  const auto download = [&](const HostTensor& to, const Tensor& from) {
    HostTensor host(from.dtype(), {from.size()});
    device_.download(host.view.data(), from);
    convert(DType::f64, to.view.data(), from.dtype(), host.view.data(), from.size());
  };
  download(wide, moments);
  HostTensor wide_noise;
  if (noise) {
    wide_noise = HostTensor(DType::f64, {B, h, w, C});
    download(wide_noise, noise);
  }
  latents_of_posterior(result.view, wide.view, wide_noise.view, config_);
  HostTensor narrow(dtype_, {B, h, w, C});
  convert(dtype_, narrow.view.data(), DType::f64, result.view.data(), result.view.size());
  device_.upload(latents, narrow.view.data());
}

void Vae::decode(const Tensor& pixels, const Tensor& latents) {
  CHECK(slots_[0] && latents.rank() == 4 && latents.dtype() == dtype_, "Vae::decode: not prepared");
  CHECK(latents.dim(3) == latent_channels() && latents.dim(1) * factor() == pixels.dim(1) &&
            latents.dim(2) * factor() == pixels.dim(2),
        "Vae::decode: " + latents.describe() + " to " + pixels.describe());
  vae::Network(device_.ops(), config_, slots_).decode(pixels, latents, weights_.decoder);
}

}  // namespace fluxlora
