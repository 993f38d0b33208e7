// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/attention.h"

#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/linear.h"
#include "ops/checks.h"

namespace fluxlora::cuda {

CudnnGraphs* Attention::graphs(const Tensor& q, const AttentionOptions& options) {
  if (!use_cudnn_ || q.dtype() != DType::bf16 || q.dim(2) / options.heads > 256) return nullptr;
  if (!graphs_) graphs_ = std::make_unique<CudnnGraphs>(context_, Slot::attention);
  return graphs_.get();
}

void CudaOps::set_deterministic(bool on) {
  Attention::of(attention_, context_).set_deterministic(on);
}

void CudaOps::attention(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
                        const Tensor& v, const AttentionOptions& options) {
  checks::attention(out, lse, q, k, v, options);
  CudnnGraphs* const graphs = Attention::of(attention_, context_).graphs(q, options);
  if (graphs && graphs->attention(out, lse, q, k, v, options)) return;
  attention_by_products(context_, Linear::of(linear_, context_).products(), out, lse, q, k, v,
                        options);
}

void CudaOps::attention_bwd(const Tensor& dq, const Tensor& dk, const Tensor& dv,
                            const Tensor& d_out, const Tensor& out, const Tensor& lse,
                            const Tensor& q, const Tensor& k, const Tensor& v,
                            const AttentionOptions& options) {
  checks::attention_bwd(dq, dk, dv, d_out, out, lse, q, k, v, options);
  Attention& way = Attention::of(attention_, context_);
  CudnnGraphs* const graphs = way.graphs(q, options);
  const CudnnGraphs::AttentionBwd tensors{dq, dk, dv, d_out, out, lse, q, k, v};
  if (graphs && graphs->attention_bwd(tensors, options, way.deterministic())) return;
  attention_bwd_by_products(context_, Linear::of(linear_, context_).products(), tensors, options);
}

}  // namespace fluxlora::cuda
