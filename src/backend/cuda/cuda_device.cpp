// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/cuda_device.h"

#include <string>

#include "backend/cuda/check.h"
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/lanes.h"

namespace fluxlora {
namespace cuda {

CudaOps::CudaOps(Context& context) : context_(context) {}
CudaOps::~CudaOps() = default;

/// Whether this program holds code for the current GPU. memory.cu.
bool code_for_this_gpu();

namespace {

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int index) : context_(index), ops_(context_), lanes_(context_) {}

  Ops& ops() override { return ops_; }
  std::string name() const override {
    cudaDeviceProp properties;
    CUDA_CHECK(cudaGetDeviceProperties(&properties, context_.index()));
    return "cuda:" + std::to_string(context_.index()) + " (" + properties.name + ", " +
           std::to_string(properties.totalGlobalMem >> 30) + " GiB)";
  }
  bool is_host() const override { return false; }
  MemoryInfo memory() const override {
    size_t free = 0, total = 0;
    CUDA_CHECK(cudaSetDevice(context_.index()));
    CUDA_CHECK(cudaMemGetInfo(&free, &total));
    return {static_cast<int64_t>(free), static_cast<int64_t>(total)};
  }
  Buffer allocate(int64_t bytes) override { return context_.allocate(bytes); }

  void upload(const Tensor& device, const void* host) override {
    CHECK(device.contiguous(), "upload to " + device.describe());
    copy(device.data(), host, device.bytes(), cudaMemcpyHostToDevice);
  }
  void download(void* host, const Tensor& device) override {
    CHECK(device.contiguous(), "download of " + device.describe());
    copy(host, device.data(), device.bytes(), cudaMemcpyDeviceToHost);
  }
  void synchronize() override { CUDA_CHECK(cudaStreamSynchronize(context_.stream())); }

  Buffer allocate_pinned(int64_t bytes) override { return context_.allocate_pinned(bytes); }
  void copy_aside(int lane, const Tensor& device, const void* pinned) override {
    CHECK(device.contiguous(), "copy to " + device.describe());
    lanes_.copy(lane, device.data(), pinned, device.bytes());
  }
  void join(int lane) override { lanes_.join(lane); }

 private:
  /// In the stream's order; waits, since the host's memory may change afterwards.
  void copy(void* to, const void* from, int64_t bytes, cudaMemcpyKind kind) {
    if (bytes == 0) return;
    CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, context_.stream()));
    synchronize();
  }

  Context context_;
  CudaOps ops_;
  Lanes lanes_;
};

/// Faults that concern all GPUs of the machine; sets the number of GPUs.
std::optional<Error> machine_fault(const std::string& where, int& count) {
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return {};
  cudaGetLastError();
  int driver = 0, needed = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&needed);
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0))
    return environment_error(where, "this machine shows no NVIDIA GPU",
                             "use --device cpu, or see what nvidia-smi says and whether "
                             "CUDA_VISIBLE_DEVICES hides a GPU");
  if (driver == 0)
    return environment_error(where, "no NVIDIA driver is installed",
                             "use --device cpu, or install NVIDIA's driver for CUDA " +
                                 version_text(needed) + " or newer");
  if (status == cudaErrorInsufficientDriver || driver / 1000 < needed / 1000)
    return environment_error(where,
                             "the NVIDIA driver supports CUDA " + version_text(driver) +
                                 ", this program needs " + version_text(needed),
                             "use --device cpu, or install a newer NVIDIA driver");
  return environment_error(where, std::string("CUDA does not start: ") + cudaGetErrorString(status),
                           "use --device cpu, or see what nvidia-smi says");
}

}  // namespace
}  // namespace cuda

std::optional<Error> cuda_fault(int index) {
  const std::string where = "--device cuda:" + std::to_string(index);
  int count = 0;
  if (auto fault = cuda::machine_fault(where, count)) return fault;
  if (index < 0 || index >= count)
    return environment_error(
        where, "this machine has " + std::to_string(count) + (count == 1 ? " GPU" : " GPUs"),
        "use --device cpu or cuda:0" + (count == 1 ? "" : " to cuda:" + std::to_string(count - 1)));
  int major = 0, minor = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index));
  CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index));
  if (major < 8)
    return environment_error(where,
                             "this GPU has compute capability " + std::to_string(major) + "." +
                                 std::to_string(minor) + ", 8.0 is needed",
                             "use --device cpu, or a GPU of the Ampere generation or newer");
  return {};
}

std::unique_ptr<Device> open_cuda_device(int index) {
  if (const auto fault = cuda_fault(index)) throw *fault;
  auto device = std::make_unique<cuda::CudaDevice>(index);
  if (!cuda::code_for_this_gpu())
    throw environment_error("--device cuda:" + std::to_string(index),
                            "this program was built without code for " + device->name(),
                            "use --device cpu, or build with -DCMAKE_CUDA_ARCHITECTURES=native");
  return device;
}

}  // namespace fluxlora
