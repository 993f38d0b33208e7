// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/lanes.h"

#include "backend/cuda/check.h"

namespace fluxlora::cuda {

Lanes::Lanes(Context& context) : context_(context) {
  CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  CUDA_CHECK(cudaEventCreateWithFlags(&given_, cudaEventDisableTiming));
  for (cudaEvent_t& event : arrived_)
    CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
}

Lanes::~Lanes() {
  cudaStreamSynchronize(stream_);
  for (cudaEvent_t event : arrived_) cudaEventDestroy(event);
  cudaEventDestroy(given_);
  cudaStreamDestroy(stream_);
}

void Lanes::copy(int lane, void* device, const void* pinned, int64_t bytes) {
  CUDA_CHECK(cudaEventRecord(given_, context_.stream()));
  CUDA_CHECK(cudaStreamWaitEvent(stream_, given_, 0));
  CUDA_CHECK(
      cudaMemcpyAsync(device, pinned, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_));
  CUDA_CHECK(cudaEventRecord(arrived_[static_cast<size_t>(lane)], stream_));
}

void Lanes::join(int lane) {
  CUDA_CHECK(cudaStreamWaitEvent(context_.stream(), arrived_[static_cast<size_t>(lane)], 0));
}

}  // namespace fluxlora::cuda
