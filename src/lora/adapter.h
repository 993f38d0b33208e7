// SPDX-License-Identifier: Apache-2.0
// The trained parameters: flat buffers with a table of segments, attached to the transformer.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "lora/kron.h"
#include "lora/targets.h"
#include "model/clip/text_model.h"
#include "model/flux/weights.h"
#include "ops/device.h"

namespace fluxlora::lora {

/// What a matrix is to its adapter.
enum class Role { a, b, magnitude, w1, w2_a, w2_b };

/// A matrix inside the flat buffers.
struct Segment {
  size_t spec = 0;  ///< index into specs()
  /// A (rank, in), B (rows, rank), DoRA's magnitude (rows, 1), or LoKr's factors (KronFactors).
  Role role = Role::a;
  int64_t offset = 0;  ///< in elements
  int64_t rows = 0, columns = 0;
};

/// Where a set's adapters lie beside a layer: its own, those of an assistant, or what the own ones
/// began as.
enum class Beside { own, assistant, start };

/// The networks whose layers may carry adapters.
struct Networks {
  flux::Weights& transformer;
  ClipText* clip = nullptr;  ///< null: no adapter is CLIP's

  Networks(flux::Weights& weights, ClipText* text = nullptr) : transformer(weights), clip(text) {}

  /// f(name, AdaptedLinear&) for every linear layer, as AdapterSpec::bfl has it.
  template <typename F>
  void visit_linears(F&& f) const {
    flux::visit_linears(transformer, f);
    if (clip) clip->visit_linears(f);
  }
};

/// Adapters for a transformer, and for CLIP: parameters and, when they train, gradients in one flat
/// buffer each. Both are f32, or f64 with f64 activations; beside bf16 activations the layers read
/// a bf16 copy of the parameters. They stay attached to the networks for this object's life.
class AdapterSet {
 public:
  /// `act` is the dtype of activations. Several specs may name the same rows: their changes add up.
  /// The base weights are untouched. Only own adapters train or are DoRA; workspaces are made after
  /// all sets. DoRA's rows are measured before anything else (measure_rows).
  AdapterSet(Device& device, const Networks& networks, std::vector<AdapterSpec> specs, DType act,
             bool trains, Beside beside = Beside::own);
  ~AdapterSet();
  AdapterSet(const AdapterSet&) = delete;
  AdapterSet& operator=(const AdapterSet&) = delete;

  const std::vector<AdapterSpec>& specs() const { return specs_; }
  const std::vector<Segment>& segments() const { return segments_; }
  int64_t size() const { return params_.size(); }
  /// All memory on the device, gradients and start included.
  int64_t bytes() const;
  const Tensor& params() const { return params_; }  // (size)
  const Tensor& grads() const { return grads_; }    // (size), empty unless it trains

  /// What the layers read, made from params(): to be called after these were changed from outside.
  void refresh();

  /// Before the backward of a step's first micro-batch, and after that of its last one: grads() are
  /// those of the params() then.
  void clear_gradients();
  void finish_gradients();

  /// |W|² by rows of every layer with DoRA; nothing to do without.
  void measure_rows(flux::LoadedWeights& weights);
  /// A random from `seed` ("gaussian", else uniform: lora::Options::init), B zero, magnitudes |W|.
  void initialise(uint64_t seed, const std::string& init);
  /// What the adapters are now becomes their start: from here on it is subtracted, so that the
  /// model is the base again. To be called once, before workspaces are made.
  void subtract_start();
  /// That start, or null.
  AdapterSet* start() const { return start_.get(); }
  /// The factor m of every adapter: 1 as trained, 0 the base model bit for bit.
  void set_multiplier(float m);

  /// `options`' dropout from here on, where draw_dropout() has turned it on. Before workspaces are
  /// made.
  void use_dropout(const Options& options);
  /// What is set aside follows from these numbers; nothing is after stop_dropout().
  void draw_dropout(uint64_t seed, int64_t step, int64_t micro_step);
  void stop_dropout();

  /// One matrix, to and from host memory of the parameters' dtype. LoKr's need refresh() after.
  HostTensor download(const Segment& segment) const;
  void upload(const Segment& segment, const Tensor& host);

 private:
  void lay_out();
  void allocate(bool trains);
  void allocate_dora();
  /// Sets the views of every layer that carries adapters.
  void attach();
  /// Calls f(A, B, dA, dB, factors, their gradients) for every LoKr; gradients are empty without.
  template <typename F>
  void visit_krons(F&& f);
  DoraRows dora_rows(size_t spec, const Tensor& magnitude, const Tensor& d_magnitude);
  template <typename F>
  void visit_own(F&& f);

  Device& device_;
  Networks networks_;
  std::vector<AdapterSpec> specs_;
  std::map<std::string, std::vector<size_t>> by_layer_;  // indices of specs
  std::vector<Segment> segments_;
  DType act_;
  Beside beside_;
  Buffer memory_, dora_memory_;
  Tensor params_, grads_, multiplier_;
  // The A and B that the layers know: params_ and grads_ themselves unless they are LoKr's.
  struct Offsets {
    int64_t a = 0, b = 0;
  };
  std::vector<Offsets> wide_at_;  // by spec
  Tensor wide_, wide_grads_;
  Tensor active_;  // what the layers read; wide_ itself unless activations are bf16
  Tensor draw_;    // (5) i32: DropoutOptions::draw
  // DoRA: by the rows of all specs in their order, and work memory.
  Tensor square_, gain_, scaled_b_, cross_, gram_, second_;
  bool measured_ = false;
  std::unique_ptr<AdapterSet> start_;
};

}  // namespace fluxlora::lora
