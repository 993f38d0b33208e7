// SPDX-License-Identifier: Apache-2.0
// vae_dump FOLDER IN OUT [F32|F64]: runs the VAE of FOLDER on the tensors of the safetensors file
// IN (pixels (B, H, W, 3), latents and noise (B, h, w, C)) and writes moments, mean, sample and
// decoded, for tests/interop/test_vae.py.
#include <cstdio>
#include <string>

#include "backend/cpu/cpu_device.h"
#include "base/error.h"
#include "model/vae/vae.h"
#include "tensor/safetensors.h"

namespace fluxlora {
namespace {

void run(const std::string& folder, const std::string& in, const std::string& out, DType dtype) {
  const auto device = open_cpu_device();
  Vae vae(*device, folder, dtype);
  const SafetensorsFile file(in);
  const HostTensor pixels = file.read("pixels", dtype), latents = file.read("latents", dtype),
                   noise = file.read("noise", dtype);
  const Tensor& z = latents.view;
  vae.prepare(z.dim(0), pixels.view.dim(1), pixels.view.dim(2));
  const HostTensor moments(dtype, {z.dim(0), z.dim(1), z.dim(2), 2 * z.dim(3)});
  const HostTensor mean(dtype, {z.dim(0), z.dim(1), z.dim(2), z.dim(3)});
  const HostTensor sample(dtype, {z.dim(0), z.dim(1), z.dim(2), z.dim(3)});
  const HostTensor decoded(dtype, {z.dim(0), pixels.view.dim(1), pixels.view.dim(2), 3});
  vae.encode_moments(moments.view, pixels.view);
  vae.encode(mean.view, pixels.view);
  vae.encode(sample.view, pixels.view, noise.view);
  vae.decode(decoded.view, latents.view);
  write_safetensors(out,
                    {{"moments", moments.view},
                     {"mean", mean.view},
                     {"sample", sample.view},
                     {"decoded", decoded.view}},
                    {});
}

}  // namespace
}  // namespace fluxlora

int main(int argc, char** argv) {
  using namespace fluxlora;
  if (argc < 4) return 2;
  try {
    run(argv[1], argv[2], argv[3], dtype_from_safetensors(argc > 4 ? argv[4] : "F32", argv[0]));
  } catch (const Error& error) {
    std::fputs(error.two_lines().c_str(), stderr);
    return static_cast<int>(error.kind());
  }
  return 0;
}
