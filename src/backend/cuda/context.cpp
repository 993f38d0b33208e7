// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/context.h"

#include <string>

#include "backend/cuda/check.h"
#include "base/error.h"

namespace fluxlora::cuda {

void call_failed(cudaError_t status, const char* statement, const char* file, int line) {
  throw Error(ErrorKind::internal, std::string(file) + ":" + std::to_string(line),
              std::string(statement) + ": " + cudaGetErrorString(status) + " (" +
                  cudaGetErrorName(status) + ")",
              "if it happens again, please report it with the command that you ran");
}

Context::Context(int index) : index_(index) {
  CUDA_CHECK(cudaSetDevice(index));
  int major = 0, minor = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index));
  CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index));
  CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, index));
  capability_ = major * 10 + minor;
  CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
}

Context::~Context() {
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
}

Buffer Context::allocate(int64_t bytes) {
  CUDA_CHECK(cudaSetDevice(index_));
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, static_cast<size_t>(bytes > 0 ? bytes : 1));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // it would be reported by the next launch
    size_t free = 0, total = 0;
    CUDA_CHECK(cudaMemGetInfo(&free, &total));
    const auto mib = [](auto n) { return std::to_string(static_cast<int64_t>(n) >> 20) + " MiB"; };
    throw environment_error(
        "GPU memory",
        "no room for " + mib(bytes) + ": " + mib(free) + " of " + mib(total) + " are free",
        "close other programs on this GPU, or use a smaller batch or picture");
  }
  CUDA_CHECK(status);
  return {data, bytes, [](void* p) { cudaFree(p); }};
}

Buffer Context::allocate_pinned(int64_t bytes) {
  CUDA_CHECK(cudaSetDevice(index_));
  void* data = nullptr;
  const auto size = static_cast<size_t>(bytes > 0 ? bytes : 1);
  const cudaError_t status = cudaHostAlloc(&data, size, cudaHostAllocDefault);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw environment_error(
        "memory", "the machine has no " + std::to_string(bytes >> 20) + " MiB left to pin",
        "close other programs, see whether ulimit -l or a container limits pinned memory, or give "
        "the GPU a larger budget");
  }
  CUDA_CHECK(status);
  return {data, bytes, [](void* p) { cudaFreeHost(p); }};
}

void* Context::scratch(Slot slot, int64_t bytes) {
  Buffer& buffer = slots_[static_cast<size_t>(slot)];
  if (buffer.bytes() < bytes || !buffer) {
    buffer = Buffer();  // cudaFree waits for whoever still reads it
    buffer = allocate(bytes);
  }
  return buffer.data();
}

}  // namespace fluxlora::cuda
