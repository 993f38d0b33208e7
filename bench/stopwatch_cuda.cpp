// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/check.h"
#include "backend/cuda/cuda_ops.h"
#include "stopwatch.h"

namespace fluxlora::bench {
namespace {

class CudaStopwatch final : public Stopwatch {
 public:
  explicit CudaStopwatch(cudaStream_t stream) : stream_(stream) {}
  ~CudaStopwatch() override {
    for (const cudaEvent_t event : events_) cudaEventDestroy(event);
  }

  void mark() override {
    if (used_ == events_.size()) {
      events_.push_back(nullptr);
      CUDA_CHECK(cudaEventCreate(&events_.back()));
    }
    CUDA_CHECK(cudaEventRecord(events_[used_++], stream_));
  }
  std::vector<double> take() override {
    CUDA_CHECK(cudaStreamSynchronize(stream_));
    std::vector<double> seconds;
    for (size_t i = 1; i < used_; ++i) {
      float milliseconds = 0;
      CUDA_CHECK(cudaEventElapsedTime(&milliseconds, events_[i - 1], events_[i]));
      seconds.push_back(1e-3 * static_cast<double>(milliseconds));
    }
    used_ = 0;
    return seconds;
  }

 private:
  cudaStream_t stream_;
  std::vector<cudaEvent_t> events_;
  size_t used_ = 0;
};

}  // namespace

std::unique_ptr<Stopwatch> make_stopwatch(Device& device) {
  if (device.is_host()) return make_host_stopwatch();
  auto& ops = dynamic_cast<cuda::CudaOps&>(device.ops());
  return std::make_unique<CudaStopwatch>(ops.context().stream());
}

void let_add_in_any_order(Device& device) {
  if (!device.is_host()) dynamic_cast<cuda::CudaOps&>(device.ops()).set_deterministic(false);
}

}  // namespace fluxlora::bench
