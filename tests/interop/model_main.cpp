// SPDX-License-Identifier: Apache-2.0
// model_dump PATH IN OUT [f32|bf16|fp8]: runs the transformer at PATH (a folder or a single file)
// on the tensors of the safetensors file IN (img (B, rows columns, C), txt (B, M, X), pooled (B,
// V), t and guidance (B), grid (2) = rows and columns) and writes "prediction", for
// test_model_files.py. The last argument is the format of the frozen weights.
#include <cstdio>
#include <string>

#include "base/error.h"
#include "model/flux/transformer.h"
#include "tensor/safetensors.h"

namespace {

using namespace fluxlora;

void dump(int argc, char** argv) {
  if (argc < 4) throw bad_input("model_dump", "wants three arguments", "see its first lines");
  const std::string word = argc > 4 ? argv[4] : "f32";
  const WeightFormat format = word == "bf16"  ? WeightFormat::bf16
                              : word == "fp8" ? WeightFormat::fp8
                                              : WeightFormat::f32;
  const auto device = open_device("cpu");
  flux::Transformer model(*device, argv[1], DType::f32, format);
  const SafetensorsFile in(argv[2]);
  const HostTensor img = in.read("img", DType::f32), txt = in.read("txt", DType::f32);
  const HostTensor grid = in.read("grid", DType::f32);
  const auto side = [&](int i) { return static_cast<int64_t>(grid.view.as<float>()[i]); };
  flux::Workspace workspace(model, model.sizes(img.view.dim(0), txt.view.dim(1), side(0), side(1)));
  const flux::Inputs& inputs = workspace.inputs();
  device->upload(inputs.img, img.view.data());
  device->upload(inputs.txt, txt.view.data());
  device->upload(inputs.pooled, in.read("pooled", DType::f32).view.data());
  device->upload(inputs.t, in.read("t", DType::f32).view.data());
  device->upload(inputs.guidance, in.read("guidance", DType::f32).view.data());
  workspace.forward();
  const Tensor& prediction = workspace.prediction();
  HostTensor host(DType::f32, {prediction.dim(0), prediction.dim(1), prediction.dim(2)});
  device->download(host.view.data(), prediction);
  write_safetensors(argv[3], {{"prediction", host.view}}, {});
}

}  // namespace

int main(int argc, char** argv) try {
  dump(argc, argv);
  return 0;
} catch (const fluxlora::Error& error) {
  std::fputs(error.two_lines().c_str(), stderr);
  return static_cast<int>(error.kind());
}
