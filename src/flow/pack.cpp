// SPDX-License-Identifier: Apache-2.0
#include "flow/pack.h"

#include <cstring>

#include "base/error.h"

namespace fluxlora::flow {
namespace {

/// Copies elements between contiguous tensors: `from(i)` is the source index of destination i.
template <typename Index>
void gather(const Tensor& destination, const Tensor& source, Index from) {
  CHECK(destination.contiguous() && source.contiguous() && destination.size() == source.size() &&
            destination.dtype() == source.dtype(),
        "pack: " + destination.describe() + " from " + source.describe());
  const auto width = static_cast<size_t>(dtype_size(source.dtype()));
  auto* to = static_cast<char*>(destination.data());
  const auto* base = static_cast<const char*>(source.data());
  for (int64_t i = 0; i < destination.size(); ++i)
    std::memcpy(to + static_cast<size_t>(i) * width, base + static_cast<size_t>(from(i)) * width,
                width);
}

/// Where element i of packed (B, (h/2)(w/2), 4C) lies in latents (B, h, w, C).
struct PatchIndex {
  int64_t h, w, C;

  int64_t operator()(int64_t i) const {
    const int64_t dx = i % 2, dy = i / 2 % 2, c = i / 4 % C;
    const int64_t token = i / (4 * C);
    const int64_t x = token % (w / 2), y = token / (w / 2) % (h / 2), b = token / (w / 2 * (h / 2));
    return ((b * h + 2 * y + dy) * w + 2 * x + dx) * C + c;
  }
};

PatchIndex patch_index(const Tensor& latents) {
  CHECK(latents.rank() == 4 && latents.dim(1) % 2 == 0 && latents.dim(2) % 2 == 0,
        "pack: latents " + latents.describe());
  return {latents.dim(1), latents.dim(2), latents.dim(3)};
}

}  // namespace

void pack(const Tensor& packed, const Tensor& latents) {
  gather(packed, latents, patch_index(latents));
}

void unpack(const Tensor& latents, const Tensor& packed) {
  const PatchIndex index = patch_index(latents);
  const auto width = static_cast<size_t>(dtype_size(packed.dtype()));
  CHECK(latents.contiguous() && packed.contiguous() && latents.size() == packed.size() &&
            latents.dtype() == packed.dtype(),
        "unpack: " + packed.describe());
  for (int64_t i = 0; i < packed.size(); ++i)
    std::memcpy(static_cast<char*>(latents.data()) + static_cast<size_t>(index(i)) * width,
                static_cast<const char*>(packed.data()) + static_cast<size_t>(i) * width, width);
}

void channels_last(const Tensor& last, const Tensor& first) {
  const int64_t C = first.dim(1), P = first.dim(2) * first.dim(3);
  CHECK(last.rank() == 4 && last.dim(3) == C, "channels_last: " + last.describe());
  gather(last, first, [&](int64_t i) { return (i / (C * P) * C + i % C) * P + i / C % P; });
}

void channels_first(const Tensor& first, const Tensor& last) {
  const int64_t C = first.dim(1), P = first.dim(2) * first.dim(3);
  CHECK(last.rank() == 4 && last.dim(3) == C, "channels_first: " + last.describe());
  gather(first, last, [&](int64_t i) { return (i / (C * P) * P + i % P) * C + i / P % C; });
}

void shift_channels(const Tensor& packed, const Tensor& shifts) {
  CHECK(packed.contiguous() && packed.dim(-1) == 4 * shifts.size(),
        "shift_channels: " + packed.describe());
  auto* const values = packed.as<float>();
  const auto* const shift = shifts.as<const float>();
  for (int64_t i = 0; i < packed.size(); ++i) values[i] += shift[i / 4 % shifts.size()];
}

}  // namespace fluxlora::flow
