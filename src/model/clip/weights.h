// SPDX-License-Identifier: Apache-2.0
// The parameters of a CLIP text model, under transformers' names without the prefix "text_model.".
#pragma once

#include <string>
#include <vector>

#include "model/adapted_linear.h"
#include "model/clip/config.h"

namespace fluxlora::clip {

struct Norm {
  Tensor weight, bias;  // (C)
};

struct Layer {
  Norm norm1, norm2;
  AdaptedLinear q, k, v, out;  // (C, C)
  AdaptedLinear fc1;           // (F, C)
  AdaptedLinear fc2;           // (C, F)

  /// f("self_attn.q_proj", AdaptedLinear&) for each linear layer.
  template <typename F>
  void visit_linears(F&& f) {
    f("self_attn.q_proj", q);
    f("self_attn.k_proj", k);
    f("self_attn.v_proj", v);
    f("self_attn.out_proj", out);
    f("mlp.fc1", fc1);
    f("mlp.fc2", fc2);
  }
  /// Whether an adapter of this layer trains.
  bool trains() const {
    return q.trains() || k.trains() || v.trains() || out.trains() || fc1.trains() || fc2.trains();
  }
};

struct Weights {
  Tensor tokens;     // (V, C)
  Tensor positions;  // (T, C)
  std::vector<Layer> layers;
  Norm final_norm;

  /// f(name of the layer, AdaptedLinear&): "encoder.layers.0.self_attn.q_proj" and so on.
  template <typename F>
  void visit_linears(F&& f) {
    for (size_t i = 0; i < layers.size(); ++i)
      layers[i].visit_linears([&](const std::string& name, AdaptedLinear& linear) {
        f("encoder.layers." + std::to_string(i) + "." + name, linear);
      });
  }

  /// f(name of the tensor, Tensor&, shape) for every parameter.
  template <typename F>
  void visit(const ClipConfig& c, F&& f) {
    using Shape = std::initializer_list<int64_t>;
    f("embeddings.token_embedding.weight", tokens, Shape{c.vocabulary, c.width});
    f("embeddings.position_embedding.weight", positions, Shape{c.positions, c.width});
    const auto norm = [&](const std::string& name, Norm& n) {
      f(name + ".weight", n.weight, Shape{c.width});
      f(name + ".bias", n.bias, Shape{c.width});
    };
    for (size_t i = 0; i < layers.size(); ++i) {
      const std::string name = "encoder.layers." + std::to_string(i) + ".";
      norm(name + "layer_norm1", layers[i].norm1);
      norm(name + "layer_norm2", layers[i].norm2);
    }
    norm("final_layer_norm", final_norm);
    visit_linears([&](const std::string& name, AdaptedLinear& linear) {
      const int64_t out = name.ends_with("fc1") ? c.hidden : c.width;
      const int64_t in = name.ends_with("fc2") ? c.hidden : c.width;
      f(name + ".weight", linear.weight.values, Shape{out, in});
      f(name + ".bias", linear.bias, Shape{out});
    });
  }
};

}  // namespace fluxlora::clip
