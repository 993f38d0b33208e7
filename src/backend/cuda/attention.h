// SPDX-License-Identifier: Apache-2.0
// What the attentions of CudaOps share: cuDNN's plans, and the way through products.
#pragma once

#include <memory>

#include "backend/cuda/cudnn_graphs.h"
#include "backend/cuda/products.h"
#include "ops/ops.h"

namespace fluxlora::cuda {

class Attention {
 public:
  explicit Attention(Context& context) : context_(context) {}

  /// The one of this backend, made on first use.
  static Attention& of(std::shared_ptr<Attention>& slot, Context& context) {
    if (!slot) slot = std::make_shared<Attention>(context);
    return *slot;
  }

  /// cuDNN's plans for these activations; null where cuDNN has none (f32, heads wider than 256).
  CudnnGraphs* graphs(const Tensor& q, const AttentionOptions& options);

  /// Whether a backward gives the same bytes each time; it does unless this is switched off.
  bool deterministic() const { return deterministic_; }
  void set_deterministic(bool on) { deterministic_ = on; }
  /// Tests compare the two ways.
  void set_use_cudnn(bool on) { use_cudnn_ = on; }

 private:
  Context& context_;
  std::unique_ptr<CudnnGraphs> graphs_;
  bool deterministic_ = true, use_cudnn_ = true;
};

/// As Ops::attention: scores of a chunk of queries by cuBLASLt, softmax, product with v. The S x S
/// scores of long S never exist. For f32 and bf16, heads of any width. attention_by_products.cu.
void attention_by_products(Context& context, Products& products, const Tensor& out,
                           const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
                           const AttentionOptions& options);
/// As Ops::attention_bwd. In bf16 each chunk of queries rounds dk and dv once more.
void attention_bwd_by_products(Context& context, Products& products,
                               const CudnnGraphs::AttentionBwd& t, const AttentionOptions& options);

}  // namespace fluxlora::cuda
