// SPDX-License-Identifier: Apache-2.0
#include "backend/cpu/cpu_device.h"

#include <cstring>
#include <string>

#include "backend/cpu/cpu_ops.h"
#include "backend/cpu/gemm.h"
#include "base/error.h"
#include "base/parallel.h"

namespace fluxlora {
namespace {

class CpuDevice final : public Device {
 public:
  Ops& ops() override { return ops_; }
  std::string name() const override {
    const int threads = thread_count();
    return "cpu (" + std::to_string(threads) + (threads == 1 ? " thread)" : " threads)");
  }
  bool is_host() const override { return true; }
  Buffer allocate(int64_t bytes) override { return host_buffer(bytes); }
  void upload(const Tensor& device, const void* host) override {
    CHECK(device.contiguous(), "upload to " + device.describe());
    std::memcpy(device.data(), host, static_cast<size_t>(device.bytes()));
  }
  void download(void* host, const Tensor& device) override {
    CHECK(device.contiguous(), "download of " + device.describe());
    std::memcpy(host, device.data(), static_cast<size_t>(device.bytes()));
  }
  void synchronize() override {}

 private:
  CpuOps ops_;
};

}  // namespace

std::unique_ptr<Device> open_cpu_device() {
  use_one_blas_thread();
  return std::make_unique<CpuDevice>();
}

}  // namespace fluxlora
