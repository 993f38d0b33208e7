// SPDX-License-Identifier: Apache-2.0
// quantise_dump IN OUT FORMAT: writes what a weight of FORMAT (fp8, int8, nf4) stores of the matrix
// "w" in the safetensors file IN ("values", "scales", "blocks") and the numbers that it stands for
// ("rows"). For test_quantised.py.
#include <cstdio>
#include <vector>

#include "base/error.h"
#include "model/precision.h"
#include "tensor/quantise.h"
#include "tensor/safetensors.h"

namespace {

using namespace fluxlora;

void dump(int argc, char** argv) {
  if (argc != 4) throw bad_input("quantise_dump", "wants 3 arguments", "see its first lines");
  const HostTensor w = SafetensorsFile(argv[1]).read("w", DType::f32);
  const int64_t out = w.view.dim(0), in = w.view.dim(1);
  Weight weight{.format = transformer_precision(argv[3], /*on_host=*/true).format, .values = {}};
  std::vector<HostTensor> memory;
  for_storage(weight.format, out, in, [&](Tensor Weight::* field, DType dtype, auto shape) {
    weight.*field = memory.emplace_back(dtype, shape).view;
  });
  quantise(weight, w.view);
  const HostTensor rows(DType::f32, {out, in});
  for (int64_t o = 0; o < out; ++o) read_row(DType::f32, rows.view.as<float>() + o * in, weight, o);
  std::vector<NamedTensor> tensors{
      {"rows", rows.view, {}}, {"scales", weight.scales, {}}, {"values", weight.values, {}}};
  if (weight.blocks) tensors.push_back({"blocks", weight.blocks, {}});
  write_safetensors(argv[2], std::move(tensors), {});
}

}  // namespace

int main(int argc, char** argv) try {
  dump(argc, argv);
  return 0;
} catch (const fluxlora::Error& error) {
  std::fputs(error.two_lines().c_str(), stderr);
  return static_cast<int>(error.kind());
}
