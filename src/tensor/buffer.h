// SPDX-License-Identifier: Apache-2.0
// Buffer: owns a piece of memory of some device. Move-only; whoever allocated it says how to free.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>

#include "tensor/tensor.h"

namespace fluxlora {

class Buffer {
 public:
  Buffer() = default;
  Buffer(void* data, int64_t bytes, std::function<void(void*)> release)
      : data_(data), bytes_(bytes), release_(std::move(release)) {}
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(release_, other.release_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (data_) release_(data_);
  }

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  std::function<void(void*)> release_;
};

/// 64-byte aligned memory of the host, not initialised. Throws Error (environment) when there is
/// none.
Buffer host_buffer(int64_t bytes);

/// A tensor together with its memory on the host: for files, pictures, tests.
struct HostTensor {
  Buffer memory;
  Tensor view;

  HostTensor() = default;
  HostTensor(DType dtype, std::initializer_list<int64_t> shape);
  HostTensor(DType dtype, const int64_t* shape, int rank);
};

}  // namespace fluxlora
