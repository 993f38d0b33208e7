// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "optim/optimizers.h"
#include "optim/ranges.h"
#include "optim/state_memory.h"

namespace fluxlora::optim {
namespace {

/// The 256 values of the dynamic code (Dettmers, 2016): 0, 1, and for each power of ten 10^-e, e =
/// 0
/// .. 6, the middles of equal parts of [0.1, 1]: 2^(6 - e) of them, with both signs or twice as
/// many without one.
std::vector<double> dynamic_code(bool has_sign) {
  std::vector<double> values{0, 1};
  for (int e = 0; e < 7; ++e) {
    const int parts = (has_sign ? 1 : 2) << (6 - e);
    for (int i = 0; i < parts; ++i) {
      const double value = std::pow(10, -e) * (0.1 + 0.9 * (i + 0.5) / parts);
      values.push_back(value);
      if (has_sign) values.push_back(-value);
    }
  }
  std::sort(values.begin(), values.end());
  return values;
}

int64_t blocks_of(int64_t count) {
  return (count + kMomentBlock - 1) / kMomentBlock;
}

class AdamW8bit final : public Optimizer {
 public:
  AdamW8bit(Device& device, const Options& o, const std::vector<Part>& parts, DType dtype)
      : device_(device),
        options_{o.beta1, o.beta2, o.eps, o.weight_decay, o.max_grad_norm},
        ranges_(device, parts, dtype, 3),
        state_(device, pieces(ranges_, parts, dtype)),
        codes_(device, {{"codes", dtype, 512}}) {
    std::vector<double> meanings = dynamic_code(true), of_v = dynamic_code(false);
    meanings.insert(meanings.end(), of_v.begin(), of_v.end());
    HostTensor host(dtype, {512});
    convert(dtype, host.view.data(), DType::f64, meanings.data(), 512);
    device.upload(codes_[0], host.view.data());
  }

  double step(const Tensor& params, const Tensor& grads, const Tensor& norm, double learning_rate,
              int64_t update) override {
    const double t = static_cast<double>(update);
    ranges_.set([&](double rate) {
      return std::vector<double>{learning_rate * rate, 1 - std::pow(options_.beta1, t),
                                 1 - std::pow(options_.beta2, t)};
    });
    int64_t block = 0;
    for (const Range& r : ranges_) {
      const int64_t blocks = blocks_of(r.count);
      const Moments8 moments{r.of(state_[0]), r.of(state_[1]), state_[2].slice(0, block, blocks),
                             state_[3].slice(0, block, blocks), codes_[0]};
      device_.ops().adamw8bit_step(r.of(params), moments, r.of(grads), norm, r.scalars, options_);
      block += blocks;
    }
    return learning_rate;
  }

  std::vector<StateTensor> state() override { return state_.tensors(); }

 private:
  static std::vector<Piece> pieces(const Ranges& ranges, const std::vector<Part>& parts,
                                   DType dtype) {
    int64_t blocks = 0;
    for (const Range& r : ranges) blocks += blocks_of(r.count);
    return {{"adamw8bit.m", DType::u8, size_of(parts)},
            {"adamw8bit.v", DType::u8, size_of(parts)},
            {"adamw8bit.m_scale", dtype, blocks},
            {"adamw8bit.v_scale", dtype, blocks}};
  }

  Device& device_;
  AdamWOptions options_;
  Ranges ranges_;      // scalars: learning rate, 1 - beta1^t, 1 - beta2^t
  StateMemory state_;  // codes of m and v, their scales by block of a range
  StateMemory codes_;  // (512): what the codes of m and of v mean
};

}  // namespace

std::unique_ptr<Optimizer> make_adamw8bit(Device& device, const Options& options,
                                          const std::vector<Part>& parts, DType dtype) {
  return std::make_unique<AdamW8bit>(device, options, parts, dtype);
}

}  // namespace fluxlora::optim
