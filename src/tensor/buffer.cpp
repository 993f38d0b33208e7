// SPDX-License-Identifier: Apache-2.0
#include "tensor/buffer.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "base/error.h"

namespace fluxlora {

Buffer host_buffer(int64_t bytes) {
  const auto rounded = static_cast<size_t>((std::max<int64_t>(bytes, 1) + 63) / 64 * 64);
  void* data = std::aligned_alloc(64, rounded);
  if (!data)
    throw environment_error("memory",
                            "the machine has no " + std::to_string(bytes >> 20) + " MiB left",
                            "close other programs or lower the batch size");
  return {data, bytes, [](void* p) { std::free(p); }};
}

HostTensor::HostTensor(DType dtype, std::initializer_list<int64_t> shape)
    : HostTensor(dtype, shape.begin(), static_cast<int>(shape.size())) {}

HostTensor::HostTensor(DType dtype, const int64_t* shape, int rank) {
  int64_t bytes = dtype_size(dtype);
  for (int i = 0; i < rank; ++i) bytes *= shape[i];
  memory = host_buffer(bytes);
  view = Tensor(dtype, shape, rank, memory.data());
}

}  // namespace fluxlora
