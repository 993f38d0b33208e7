// SPDX-License-Identifier: Apache-2.0
// text_dump clip|t5 FOLDER IN OUT FORMAT [DEVICE]: runs a text encoder on the tensor "ids" (B, T)
// i32 of the safetensors file IN and writes "output", for test_text_encoders.py and
// tests/gpu/parity.py. FORMAT is f64, or a word of model.text_precision.
#include <cstdio>
#include <cstring>
#include <string>

#include "base/error.h"
#include "model/clip/text_model.h"
#include "model/precision.h"
#include "model/t5/encoder.h"
#include "ops/transfer.h"
#include "tensor/safetensors.h"

namespace {

using namespace fluxlora;

void dump(int argc, char** argv) {
  if (argc < 6) throw bad_input("text_dump", "wants five arguments", "see its first lines");
  const SafetensorsFile in(argv[3]);
  const SafetensorsFile::Entry& entry = in.entry("ids");
  const int64_t B = entry.shape.at(0), T = entry.shape.at(1);
  std::vector<int32_t> ids(static_cast<size_t>(B * T));
  std::memcpy(ids.data(), entry.data, ids.size() * sizeof(int32_t));
  const std::string word = argv[5];
  const auto device = open_device(argc > 6 ? argv[6] : "cpu");
  const Precision precision = word == "f64" ? Precision{DType::f64, WeightFormat::f64}
                                            : text_precision(word, device->is_host());
  const DType act = precision.act;
  const auto write = [&](const Tensor& output) {
    const DType kept = act == DType::f64 ? DType::f64 : DType::f32;
    HostTensor host;
    const int64_t shape[] = {output.dim(0), output.dim(1), output.dim(-1)};
    host = output.rank() == 2 ? HostTensor(kept, {shape[0], shape[1]}) : HostTensor(kept, shape, 3);
    download_as(*device, host.view, output);
    write_safetensors(argv[4], {{"output", host.view}}, {});
  };
  if (std::string(argv[1]) == "clip") {
    ClipText clip(*device, argv[2], act);
    clip.prepare(B, false);
    write(clip.forward(ids));
  } else {
    T5Encoder t5(*device, argv[2], act, precision.format);
    t5.prepare(B, T);
    write(t5.forward(ids));
  }
}

}  // namespace

int main(int argc, char** argv) try {
  dump(argc, argv);
  return 0;
} catch (const fluxlora::Error& error) {
  std::fprintf(stderr, "%s\n", error.two_lines().c_str());
  return static_cast<int>(error.kind());
}
