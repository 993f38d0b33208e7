// SPDX-License-Identifier: Apache-2.0
#include "memory/arena.h"

#include <algorithm>

#include "base/error.h"

namespace fluxlora {
namespace {

constexpr int64_t kAlign = 64;
// Where the tensors of a measuring arena seem to lie: not null, and never mapped.
char* const kNowhere = reinterpret_cast<char*>(kAlign);

}  // namespace

Arena::Arena(Device& device, int64_t bytes) : memory_(device.allocate(bytes)) {}

Arena::Arena(void* data, int64_t bytes) : memory_(data, bytes, [](void*) {}) {}

Tensor Arena::take(const std::string& owner, DType dtype, std::initializer_list<int64_t> shape) {
  char* base = memory_ ? static_cast<char*>(memory_.data()) : kNowhere;
  const Tensor view(dtype, shape, base + used_);
  const int64_t bytes = (view.bytes() + kAlign - 1) / kAlign * kAlign;
  CHECK(!memory_ || used_ + bytes <= memory_.bytes(), "arena: more taken than measured, " + owner);
  used_ += bytes;
  peak_ = std::max(peak_, used_);
  owners_[owner] += bytes;
  return view;
}

Weight Arena::take(const std::string& owner, WeightFormat format, int64_t out, int64_t in) {
  Weight weight{.format = stored_format(format, in), .values = {}};
  for_storage(weight.format, out, in,
              [&](Tensor Weight::* field, DType dtype, std::initializer_list<int64_t> shape) {
                weight.*field = take(owner, dtype, shape);
              });
  return weight;
}

}  // namespace fluxlora
