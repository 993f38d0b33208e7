// SPDX-License-Identifier: Apache-2.0
// A device on paper: its memory is counted and its operations are counted, and nothing happens. The
// model that is built and run on it is the real one, so that a plan cannot forget a tensor or an
// operation.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <string>

#include "ops/device.h"

namespace fluxlora {

/// What a GPU does in a second, as measured (docs/memory.md says where and how).
struct Rates {
  double product_bf16 = 0;        ///< FLOP of large bf16 products
  double product_fp8 = 0;         ///< FLOP of large fp8 products
  double product_int8 = 0;        ///< operations of large int8 products
  double attention = 0;           ///< FLOP of attention, forward,
  double attention_backward = 0;  ///< and backward (counted as 2.5 times the forward's)
  double memory = 0;              ///< bytes read and written by a copy
  double link = 0;                ///< bytes from the host's pinned memory
};

/// The families that times are given for.
enum class Work : size_t { products, adapters, attention, norms, pointwise, update, other, count };
const char* word_for(Work family);

class PaperDevice final : public Device {
 public:
  explicit PaperDevice(const Rates& rates);
  ~PaperDevice() override;

  Ops& ops() override;
  std::string name() const override { return "paper"; }
  bool is_host() const override { return false; }
  /// An address that nothing may touch.
  Buffer allocate(int64_t bytes) override;
  Buffer allocate_pinned(int64_t bytes) override;
  void upload(const Tensor&, const void*) override {}
  void download(void*, const Tensor&) override {}
  void synchronize() override {}
  void copy_aside(int, const Tensor&, const void*) override {}

  /// Bytes of the device and of pinned host memory that are allocated now.
  int64_t bytes() const { return bytes_[0]; }
  int64_t pinned_bytes() const { return bytes_[1]; }
  /// Work memory of the operations run so far, as the GPU's backend takes it beside allocate();
  /// without what a backward of attention takes where there is none.
  int64_t work_bytes(bool backward = true) const;
  /// The time of the operations since the last call, by family.
  std::array<double, static_cast<size_t>(Work::count)> take_seconds();
  /// Their sum.
  double take_total();

 private:
  class PaperOps;
  Buffer count(int64_t bytes, size_t kind);

  std::unique_ptr<PaperOps> ops_;
  std::array<int64_t, 2> bytes_{};
};

}  // namespace fluxlora
