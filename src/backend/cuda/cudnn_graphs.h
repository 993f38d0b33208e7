// SPDX-License-Identifier: Apache-2.0
// cuDNN's attention and convolutions, a plan for each shape. Its frontend is included by
// cudnn_graphs.cpp alone, which takes a minute to compile.
#pragma once

#include <memory>

#include "backend/cuda/context.h"
#include "ops/ops.h"

namespace fluxlora::cuda {

/// One cuDNN handle with its plans. Every function returns false when cuDNN has no plan for what is
/// asked (dtypes, widths, alignment); nothing was launched then and the caller goes another way.
/// Plans are the first of cuDNN's heuristics, so that they depend on shape, GPU and version alone.
class CudnnGraphs {
 public:
  /// Throws Error (environment) when cuDNN cannot be opened. Work memory is the slot's alone.
  CudnnGraphs(Context& context, Slot workspace);
  ~CudnnGraphs();
  CudnnGraphs(const CudnnGraphs&) = delete;
  CudnnGraphs& operator=(const CudnnGraphs&) = delete;

  /// As Ops::attention, for bf16 and heads of up to 256.
  bool attention(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
                 const Tensor& v, const AttentionOptions& options);

  struct AttentionBwd {
    Tensor dq, dk, dv, d_out, out, lse, q, k, v;
  };
  /// As Ops::attention_bwd. `deterministic` costs work memory: heads x S² x 2 bytes before cuDNN
  /// 9.25.
  bool attention_bwd(const AttentionBwd& t, const AttentionOptions& options, bool deterministic);

  /// As Ops::conv2d, for bf16.
  bool conv2d(const Tensor& y, const Tensor& x, const Tensor& w, const Tensor& bias,
              const ConvOptions& options);

 private:
  struct Plans;
  std::unique_ptr<Plans> plans_;
};

}  // namespace fluxlora::cuda
