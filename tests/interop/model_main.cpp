// SPDX-License-Identifier: Apache-2.0
// model_dump PATH IN OUT [FORMAT [DEVICE [LORA GRADIENTS]]]: runs the transformer at PATH (a folder
// or a single file) on the tensors of the safetensors file IN (img (B, rows columns, C), txt (B, M,
// X), pooled (B, V), t and guidance (B), grid (2) = rows and columns) and writes "prediction".
// FORMAT (f32, bf16, fp8) is that of the frozen weights; activations are bf16 beside it on a GPU.
// With a LoRA file also "loss" (B), of x0 and noise (B, rows columns, C), and to GRADIENTS a LoRA
// file of dL/dA and dL/dB, L the mean of the losses. For test_model_files.py and
// tests/gpu/parity.py.
#include <cstdio>
#include <string>

#include "base/error.h"
#include "export/lora_file.h"
#include "model/flux/transformer.h"
#include "model/precision.h"
#include "ops/transfer.h"
#include "tensor/safetensors.h"

namespace {

using namespace fluxlora;

/// Device tensors from a file, in the type that they have there.
struct Inputs {
  Device& device;
  const SafetensorsFile& file;

  void fill(const Tensor& to, const std::string& name) const {
    upload_as(device, to, file.read(name, DType::f32).view);
  }
};

HostTensor on_host(Device& device, const Tensor& x) {
  int64_t shape[4];
  for (int i = 0; i < x.rank(); ++i) shape[i] = x.dim(i);
  HostTensor host(DType::f32, shape, x.rank());
  download_as(device, host.view, x);
  return host;
}

/// Loss and gradients; the adapters' parameters become their gradients, for the writer's sake.
HostTensor backward(flux::Workspace& work, flux::Transformer& model, lora::AdapterSet& adapters,
                    const Inputs& in) {
  Device& device = model.device();
  Ops& op = device.ops();
  const flux::Sizes& z = work.sizes();
  const int64_t C = model.config().in_channels, size = z.B * z.N() * C;
  const Buffer memory = device.allocate((2 * size + 2 * z.B) * static_cast<int64_t>(sizeof(float)));
  const Tensor flat(DType::f32, {2 * size + 2 * z.B}, memory.data());
  const Tensor x0 = flat.slice(0, 0, size).reshaped({z.B, z.N(), C});
  const Tensor noise = flat.slice(0, size, size).reshaped({z.B, z.N(), C});
  const Tensor loss = flat.slice(0, 2 * size, z.B), weight = flat.slice(0, 2 * size + z.B, z.B);
  in.fill(x0, "x0");
  in.fill(noise, "noise");
  op.fill(weight, 1.0 / static_cast<double>(z.B));
  op.flow_loss(loss, work.d_prediction(), work.prediction(), x0, noise, weight, {});
  adapters.clear_gradients();
  work.backward();
  adapters.finish_gradients();
  op.copy(adapters.params(), adapters.grads());
  return on_host(device, loss);
}

void dump(int argc, char** argv) {
  if (argc < 4 || argc == 7)
    throw bad_input("model_dump", "wants 3, 4, 5 or 7 arguments", "see its first lines");
  const auto device = open_device(argc > 5 ? argv[5] : "cpu");
  const Precision precision = transformer_precision(argc > 4 ? argv[4] : "f32", device->is_host());
  flux::Transformer model(*device, argv[1], precision.act, precision.format);
  std::unique_ptr<lora::AdapterSet> adapters;
  if (argc > 7) {
    const exporting::LoraFile lora = exporting::read_lora(argv[6], model.config());
    adapters = std::make_unique<lora::AdapterSet>(*device, model.weights(), lora.specs,
                                                  precision.act, /*trains=*/true);
    exporting::upload(*adapters, 0, lora);
    adapters->refresh();
    adapters->set_multiplier(1);
  }
  const SafetensorsFile file(argv[2]);
  const Inputs in{*device, file};
  const auto shape = [&](const char* name) { return file.entry(name).shape; };
  const HostTensor grid = file.read("grid", DType::f32);
  const auto side = [&](int i) { return static_cast<int64_t>(grid.view.as<float>()[i]); };
  flux::Workspace work(model, model.sizes(shape("img")[0], shape("txt")[1], side(0), side(1)),
                       {.training = adapters != nullptr});
  const flux::Inputs& inputs = work.inputs();
  in.fill(inputs.img, "img");
  in.fill(inputs.txt, "txt");
  in.fill(inputs.pooled, "pooled");
  in.fill(inputs.t, "t");
  in.fill(inputs.guidance, "guidance");
  work.forward();
  const HostTensor prediction = on_host(*device, work.prediction());
  if (!adapters) return write_safetensors(argv[3], {{"prediction", prediction.view}}, {});
  const HostTensor loss = backward(work, model, *adapters, in);
  write_safetensors(argv[3], {{"prediction", prediction.view}, {"loss", loss.view}}, {});
  exporting::write_adapters(argv[7], *adapters, model.config(), {}, {});
}

}  // namespace

int main(int argc, char** argv) try {
  dump(argc, argv);
  return 0;
} catch (const fluxlora::Error& error) {
  std::fputs(error.two_lines().c_str(), stderr);
  return static_cast<int>(error.kind());
}
