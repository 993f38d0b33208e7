// SPDX-License-Identifier: Apache-2.0
// vae_dump FOLDER IN OUT [F32|F64|BF16 [DEVICE]]: runs the VAE of FOLDER on the tensors of the
// safetensors file IN (pixels (B, H, W, 3), latents and noise (B, h, w, C)) and writes moments,
// mean, sample and decoded, for tests/interop/test_vae.py and tests/gpu/parity.py.
#include <cstdio>
#include <deque>
#include <string>

#include "base/error.h"
#include "model/vae/vae.h"
#include "ops/transfer.h"
#include "tensor/safetensors.h"

namespace fluxlora {
namespace {

/// Device memory of a program's length.
class Tensors {
 public:
  Tensors(Device& device, DType dtype) : device_(device), dtype_(dtype) {}

  Tensor make(const std::array<int64_t, 4>& shape) {
    Tensor made(dtype_, shape.data(), 4, nullptr);
    memory_.push_back(device_.allocate(made.bytes()));
    return Tensor(dtype_, shape.data(), 4, memory_.back().data());
  }
  Tensor read(const SafetensorsFile& file, const std::string& name, DType kept) {
    const HostTensor host = file.read(name, kept);
    const Tensor& h = host.view;
    const Tensor made = make({h.dim(0), h.dim(1), h.dim(2), h.dim(3)});
    upload_as(device_, made, h);
    return made;
  }

 private:
  Device& device_;
  DType dtype_;
  std::deque<Buffer> memory_;
};

void run(int argc, char** argv) {
  const DType dtype = dtype_from_safetensors(argc > 4 ? argv[4] : "F32", argv[0]);
  const DType kept = dtype == DType::f64 ? DType::f64 : DType::f32;  // in files
  const auto device = open_device(argc > 5 ? argv[5] : "cpu");
  Vae vae(*device, argv[1], dtype);
  Tensors tensors(*device, dtype);
  const SafetensorsFile file(argv[2]);
  const Tensor pixels = tensors.read(file, "pixels", kept);
  const Tensor latents = tensors.read(file, "latents", kept);
  const Tensor noise = tensors.read(file, "noise", kept);
  const Tensor& z = latents;
  vae.prepare(z.dim(0), pixels.dim(1), pixels.dim(2));
  const Tensor moments = tensors.make({z.dim(0), z.dim(1), z.dim(2), 2 * z.dim(3)});
  const Tensor mean = tensors.make({z.dim(0), z.dim(1), z.dim(2), z.dim(3)});
  const Tensor sample = tensors.make({z.dim(0), z.dim(1), z.dim(2), z.dim(3)});
  const Tensor decoded = tensors.make({z.dim(0), pixels.dim(1), pixels.dim(2), 3});
  vae.encode_moments(moments, pixels);
  vae.encode(mean, pixels);
  vae.encode(sample, pixels, noise);
  vae.decode(decoded, latents);

  std::deque<HostTensor> hosts;
  const auto on_host = [&](const Tensor& x) {
    hosts.emplace_back(kept,
                       std::initializer_list<int64_t>{x.dim(0), x.dim(1), x.dim(2), x.dim(3)});
    download_as(*device, hosts.back().view, x);
    return hosts.back().view;
  };
  write_safetensors(argv[3],
                    {{"moments", on_host(moments)},
                     {"mean", on_host(mean)},
                     {"sample", on_host(sample)},
                     {"decoded", on_host(decoded)}},
                    {});
}

}  // namespace
}  // namespace fluxlora

int main(int argc, char** argv) {
  using namespace fluxlora;
  if (argc < 4) return 2;
  try {
    run(argc, argv);
  } catch (const Error& error) {
    std::fputs(error.two_lines().c_str(), stderr);
    return static_cast<int>(error.kind());
  }
  return 0;
}
