// SPDX-License-Identifier: Apache-2.0
// What the golden tests share: the files that tests/golden/make_golden.py wrote.
#pragma once

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "export/lora_file.h"
#include "lora/adapter.h"
#include "model/flux/transformer.h"
#include "tensor/compare.h"

namespace fluxlora::golden {

inline std::filesystem::path source(const std::string& path) {
  return std::filesystem::path(FLUXLORA_SOURCE_DIR) / path;
}

inline SafetensorsFile open(const std::string& name) {
  return SafetensorsFile(source("tests/golden/" + name + ".safetensors"));
}

/// A golden tensor on the host, f32.
inline HostTensor read(const SafetensorsFile& file, const std::string& name) {
  return file.read(name, DType::f32);
}

/// Copies a golden tensor to where the model reads it.
inline void fill(Device& device, const Tensor& to, const SafetensorsFile& file,
                 const std::string& name) {
  const HostTensor host = file.read(name, to.dtype());
  ASSERT_EQ(host.view.size(), to.size()) << name;
  device.upload(to, host.view.data());
}

/// A contiguous f32 copy of a view of host memory.
inline HostTensor contiguous(const Tensor& view) {
  HostTensor copy(DType::f32, {view.dim(0), view.dim(1), view.dim(2)});
  for (int64_t b = 0; b < view.dim(0); ++b)
    for (int64_t t = 0; t < view.dim(1); ++t)
      for (int64_t c = 0; c < view.dim(2); ++c)
        copy.view.as<float>()[(b * view.dim(1) + t) * view.dim(2) + c] =
            view.as<float>()[b * view.stride(0) + t * view.stride(1) + c];
  return copy;
}

/// The adapters of a golden file, attached to the transformer.
struct Adapters {
  std::vector<lora::AdapterSpec> specs;
  std::unique_ptr<lora::AdapterSet> set;
};

inline std::vector<lora::AdapterSpec> specs_in(const SafetensorsFile& file,
                                               const flux::Config& config, double alpha) {
  std::vector<lora::AdapterSpec> specs;
  for (const flux::LinearName& layer : flux::linear_names(config))
    for (const flux::DiffusersPart& part : layer.parts) {
      const std::string key = "transformer." + part.module + ".lora_A.weight";
      if (!file.contains(key)) continue;
      specs.push_back({layer.bfl, part.module, part.row0, part.rows, layer.in,
                       file.entry(key).shape[0], alpha});
    }
  return specs;
}

/// The golden matrix of a segment: parameters for prefix "", gradients for "grad.", the trained
/// ones for "final."; in our row order.
inline HostTensor matrix(const SafetensorsFile& file, const std::string& prefix,
                         const lora::AdapterSet& set, const lora::Segment& segment) {
  const std::string& module = set.specs()[segment.spec].module;
  HostTensor m =
      read(file, prefix + "transformer." + module +
                     (segment.role == lora::Role::a ? ".lora_A.weight" : ".lora_B.weight"));
  if (segment.role == lora::Role::b && module == "norm_out.linear") {
    float* values = m.view.as<float>();
    std::swap_ranges(values, values + m.view.size() / 2, values + m.view.size() / 2);
  }
  return m;
}

inline std::unique_ptr<lora::AdapterSet> attach(flux::Transformer& model,
                                                const SafetensorsFile& file, double alpha,
                                                bool trains) {
  auto set = std::make_unique<lora::AdapterSet>(
      model.device(), model.weights(), specs_in(file, model.config(), alpha), DType::f32, trains);
  for (const lora::Segment& segment : set->segments())
    set->upload(segment, matrix(file, "", *set, segment).view);
  return set;
}

/// Fills the inputs of a workspace from transformer.safetensors.
inline void fill_inputs(flux::Workspace& workspace, Device& device, const SafetensorsFile& file) {
  const flux::Inputs& in = workspace.inputs();
  fill(device, in.img, file, "x_t");
  fill(device, in.txt, file, "txt");
  fill(device, in.pooled, file, "pooled");
  fill(device, in.t, file, "t");
  fill(device, in.guidance, file, "guidance");
}

/// loss (B) and d_prediction from the golden x0 and noise, every picture weighing 1/B.
inline HostTensor flow_loss(flux::Workspace& workspace, Device& device, const HostTensor& x0,
                            const HostTensor& noise) {
  const int64_t B = workspace.sizes().B;
  HostTensor loss(DType::f32, {B}), weight(DType::f32, {B});
  for (int64_t b = 0; b < B; ++b) weight.view.as<float>()[b] = 1.0f / static_cast<float>(B);
  device.ops().flow_loss(loss.view, workspace.d_prediction(), workspace.prediction(), x0.view,
                         noise.view, weight.view);
  return loss;
}

}  // namespace fluxlora::golden
