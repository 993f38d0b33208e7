// SPDX-License-Identifier: Apache-2.0
// The trained parameters: flat buffers with a table of segments, attached to the transformer.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "lora/targets.h"
#include "model/flux/weights.h"
#include "ops/device.h"

namespace fluxlora::lora {

/// A matrix inside the flat buffers.
struct Segment {
  size_t spec = 0;     ///< index into specs()
  bool is_a = true;    ///< A (rank, in), else B (rows, rank)
  int64_t offset = 0;  ///< in elements
  int64_t rows = 0, columns = 0;
};

/// Adapters for a transformer: parameters and, when they train, gradients in one flat buffer each.
/// Both are f32, or f64 with f64 activations; beside bf16 activations the layers read a bf16 copy
/// of the parameters. They stay attached to the weights for this object's life.
class AdapterSet {
 public:
  /// `act` is the dtype of activations. Several specs may name the same rows: their changes add up.
  /// The base weights are untouched. An `assistant` lies beside the layers' own adapters and does
  /// not train; workspaces are made after it too.
  AdapterSet(Device& device, flux::Weights& weights, std::vector<AdapterSpec> specs, DType act,
             bool trains, bool assistant = false);
  ~AdapterSet();
  AdapterSet(const AdapterSet&) = delete;
  AdapterSet& operator=(const AdapterSet&) = delete;

  const std::vector<AdapterSpec>& specs() const { return specs_; }
  const std::vector<Segment>& segments() const { return segments_; }
  int64_t size() const { return params_.size(); }
  const Tensor& params() const { return params_; }  // (size)
  const Tensor& grads() const { return grads_; }    // (size), empty unless it trains

  /// What the layers read, made from params(): to be called after these were changed from outside.
  void refresh();

  /// A as `init` says (lora::Options::init) from `seed`, B zero.
  void initialise(uint64_t seed, const std::string& init);
  /// The factor m of every adapter: 1 as trained, 0 the base model bit for bit.
  void set_multiplier(float m);

  /// One matrix, to and from host memory of the parameters' dtype.
  HostTensor download(const Segment& segment) const;
  void upload(const Segment& segment, const Tensor& host);

 private:
  void allocate(int64_t size, DType act, bool trains);
  /// Sets the views of every layer that carries adapters: indices of specs by layer name.
  void attach(const std::map<std::string, std::vector<size_t>>& by_layer);

  Device& device_;
  flux::Weights& weights_;
  std::vector<AdapterSpec> specs_;
  std::vector<Segment> segments_;
  Buffer memory_;
  Tensor params_, grads_, multiplier_;
  bool assistant_;
  Tensor active_;  // (size): what the layers read; params_ itself unless activations are bf16
};

}  // namespace fluxlora::lora
