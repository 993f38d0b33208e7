// SPDX-License-Identifier: Apache-2.0
// What all operations of one GPU share: its stream, its properties and its work memory.
#pragma once

#include <array>
#include <cstdint>

#include <cuda_runtime_api.h>

#include "tensor/buffer.h"

namespace fluxlora::cuda {

/// Who uses which piece of work memory. Pieces are never shared, so that an operation may use its
/// own while another's is still being read.
enum class Slot : size_t {
  sums,             ///< partial sums of reductions over tokens
  group,            ///< GroupNorm's partial sums,
  group_table,      ///< and its factors
  norm,             ///< partial sums of the gradients' norm and of the loss
  product,          ///< cuBLASLt's workspace
  operand,          ///< converted or transposed operands of products
  weight,           ///< a weight with four bits in eight
  scalars,          ///< factors of products
  attention,        ///< cuDNN's workspace for attention
  attention_parts,  ///< what the attention without cuDNN stores
  conv,             ///< cuDNN's workspace for convolutions
  count,
};

/// One GPU's stream and memory. Everything is launched on `stream`, in order. Used by one thread.
class Context {
 public:
  /// The device must be usable; cuda_device.cpp asks first.
  explicit Context(int index);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  int index() const { return index_; }
  cudaStream_t stream() const { return stream_; }
  /// 90 for compute capability 9.0.
  int capability() const { return capability_; }
  int multiprocessors() const { return multiprocessors_; }

  /// Throws Error (environment) that says how much there is when it is not enough.
  Buffer allocate(int64_t bytes);
  /// Page-locked memory of the host, which copies reach without a detour. Likewise.
  Buffer allocate_pinned(int64_t bytes);

  /// At least `bytes` of work memory, 256-byte aligned. What the slot held is lost when it grows;
  /// growing waits for the GPU, so it happens on first use alone.
  void* scratch(Slot slot, int64_t bytes);
  template <typename T>
  T* scratch(Slot slot, int64_t count) {
    return static_cast<T*>(scratch(slot, count * static_cast<int64_t>(sizeof(T))));
  }

 private:
  int index_ = 0, capability_ = 0, multiprocessors_ = 0;
  cudaStream_t stream_ = nullptr;
  std::array<Buffer, static_cast<size_t>(Slot::count)> slots_;
};

}  // namespace fluxlora::cuda
