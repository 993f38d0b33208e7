// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/cudnn_graphs.h"

#include <cstring>
#include <initializer_list>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include <cudnn_frontend.h>

#include "backend/cuda/libraries.h"
#include "base/error.h"
#include "base/log.h"

namespace fluxlora::cuda {
namespace {

namespace fe = cudnn_frontend;
using GraphTensor = std::shared_ptr<fe::graph::Tensor_attributes>;
using Attributes = fe::graph::Tensor_attributes;

enum Uid : int64_t {
  kQ = 1,
  kK,
  kV,
  kOut,
  kStats,
  kBias,
  kDOut,
  kDQ,
  kDK,
  kDV,
  kX,
  kW,
  kY,
};

struct Plan {
  std::shared_ptr<fe::graph::Graph> graph;  // null: cuDNN has none
  int64_t workspace = 0;
};

using Pointers = std::unordered_map<int64_t, void*>;

/// Everything that a plan depends on.
class Key {
 public:
  explicit Key(int64_t kind) : values_{kind} {}
  Key& add(std::initializer_list<int64_t> values) {
    values_.insert(values_.end(), values);
    return *this;
  }
  Key& add(const Tensor& x) {
    values_.push_back(x ? x.rank() : -1);
    for (int i = 0; i < x.rank(); ++i) add({x.dim(i), x.stride(i)});
    // Plans may count on 16-byte addresses.
    return add({static_cast<int64_t>(reinterpret_cast<uintptr_t>(x.data()) % 16)});
  }
  Key& add(double value) {
    int64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return add({bits});
  }
  bool operator<(const Key& other) const { return values_ < other.values_; }

 private:
  std::vector<int64_t> values_;
};

std::shared_ptr<fe::graph::Graph> new_graph() {
  auto graph = std::make_shared<fe::graph::Graph>();
  graph->set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  return graph;
}

Attributes attributes(Uid uid, const char* name, std::vector<int64_t> dim,
                      std::vector<int64_t> stride) {
  return Attributes().set_uid(uid).set_name(name).set_dim(dim).set_stride(stride);
}

/// (B, S, H K) as (B, H, S, K).
struct Heads {
  std::vector<int64_t> dim, stride;
  Heads(const Tensor& x, int64_t heads)
      : dim{x.dim(0), heads, x.dim(1), x.dim(2) / heads},
        stride{x.stride(0), x.dim(2) / heads, x.stride(1), 1} {}
};

Attributes heads_of(Uid uid, const char* name, const Tensor& x, int64_t heads) {
  const Heads h(x, heads);
  return attributes(uid, name, h.dim, h.stride);
}

void output(const GraphTensor& tensor, Uid uid, const Heads& h) {
  tensor->set_output(true).set_uid(uid).set_dim(h.dim).set_stride(h.stride);
}

/// lse (B, H, S) as (B, H, S, 1).
std::vector<int64_t> stats_dim(const Tensor& lse) {
  return {lse.dim(0), lse.dim(1), lse.dim(2), 1};
}
std::vector<int64_t> stats_stride(const Tensor& lse) {
  return {lse.stride(0), lse.stride(1), 1, 1};
}

Attributes bias_of(const Tensor& bias) {
  return attributes(kBias, "bias", {1, bias.dim(0), bias.dim(1), bias.dim(2)},
                    {bias.dim(0) * bias.stride(0), bias.stride(0), bias.stride(1), 1});
}

/// Whether cuDNN's 16-byte accesses reach every row.
bool aligned(const Tensor& x) {
  const int64_t size = dtype_size(x.dtype());
  bool all = reinterpret_cast<uintptr_t>(x.data()) % 16 == 0;
  for (int i = 0; i + 1 < x.rank(); ++i)
    all = all && (x.dim(i) == 1 || x.stride(i) * size % 16 == 0);
  return all;
}

}  // namespace

struct CudnnGraphs::Plans {
  Context& context;
  Slot slot;
  cudnnHandle_t handle = nullptr;
  std::map<Key, Plan> plans;

  Plans(Context& context_, Slot slot_) : context(context_), slot(slot_) {
    open_cudnn();
    const cudnnStatus_t made = cudnnCreate(&handle);
    if (made != CUDNN_STATUS_SUCCESS)
      throw environment_error("cuDNN", std::string("does not start: ") + cudnnGetErrorString(made),
                              "fluxlora doctor says what is missing");
    CHECK(cudnnSetStream(handle, context.stream()) == CUDNN_STATUS_SUCCESS, "cudnnSetStream");
  }
  ~Plans() {
    plans.clear();
    if (handle) cudnnDestroy(handle);
  }

  /// The plan of `key`; `describe` fills a graph the first time.
  template <typename F>
  const Plan& plan(const Key& key, const char* what, bool only_deterministic, F&& describe) {
    const auto found = plans.find(key);
    if (found != plans.end()) return found->second;
    Plan& plan = plans[key];
    const auto graph = new_graph();
    describe(*graph);
    fe::error_t status = build(*graph, only_deterministic);
    if (status.is_bad() || graph->get_workspace_size(plan.workspace).is_bad()) {
      log_debug(std::string("cuDNN has no plan for ") + what + ": " + status.get_message());
    } else {
      plan.graph = graph;
      context.scratch(slot, plan.workspace);
    }
    return plan;
  }

  fe::error_t build(fe::graph::Graph& graph, bool only_deterministic) {
    fe::error_t status = graph.validate();
    if (status.is_good()) status = graph.build_operation_graph(handle);
    if (status.is_good())
      status = graph.create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK});
    if (status.is_bad()) return status;
    if (only_deterministic) graph.deselect_numeric_notes({fe::NumericalNote_t::NONDETERMINISTIC});
    status = graph.check_support(handle);
    if (status.is_good()) status = graph.build_plans(handle);
    return status;
  }

  void execute(const Plan& plan, Pointers& pointers, const char* what) {
    void* const workspace = context.scratch(slot, plan.workspace);
    fe::error_t status = plan.graph->execute(handle, pointers, workspace);
    CHECK(status.is_good(), std::string(what) + ": cuDNN: " + status.get_message());
  }
};

CudnnGraphs::CudnnGraphs(Context& context, Slot workspace)
    : plans_(std::make_unique<Plans>(context, workspace)) {}
CudnnGraphs::~CudnnGraphs() = default;

bool CudnnGraphs::attention(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
                            const Tensor& v, const AttentionOptions& options) {
  const int64_t heads = options.heads, width = q.dim(2) / heads;
  if (q.dtype() != DType::bf16 || width > 256 || width % 8 != 0) return false;
  if (!aligned(out) || !aligned(q) || !aligned(k) || !aligned(v)) return false;
  Key key(0);
  key.add(out).add(lse).add(q).add(k).add(v).add(options.bias).add(options.scale);
  key.add({heads, options.causal});
  const Plan& plan = plans_->plan(key, "this attention", false, [&](fe::graph::Graph& graph) {
    auto sdpa = fe::graph::SDPA_attributes()
                    .set_name("attention")
                    .set_generate_stats(static_cast<bool>(lse))
                    .set_attn_scale(static_cast<float>(options.scale))
                    .set_causal_mask(options.causal);
    if (options.bias) sdpa.set_bias(graph.tensor(bias_of(options.bias)));
    const auto [o, stats] = graph.sdpa(graph.tensor(heads_of(kQ, "q", q, heads)),
                                       graph.tensor(heads_of(kK, "k", k, heads)),
                                       graph.tensor(heads_of(kV, "v", v, heads)), sdpa);
    output(o, kOut, Heads(out, heads));
    if (lse)
      stats->set_output(true)
          .set_uid(kStats)
          .set_data_type(fe::DataType_t::FLOAT)
          .set_dim(stats_dim(lse))
          .set_stride(stats_stride(lse));
  });
  if (!plan.graph) return false;
  Pointers pointers{{kQ, q.data()}, {kK, k.data()}, {kV, v.data()}, {kOut, out.data()}};
  if (lse) pointers[kStats] = lse.data();
  if (options.bias) pointers[kBias] = options.bias.data();
  plans_->execute(plan, pointers, "attention");
  return true;
}

bool CudnnGraphs::attention_bwd(const AttentionBwd& t, const AttentionOptions& options,
                                bool deterministic) {
  const int64_t heads = options.heads, width = t.q.dim(2) / heads;
  if (t.q.dtype() != DType::bf16 || width > 256 || width % 8 != 0) return false;
  for (const Tensor* x : {&t.dq, &t.dk, &t.dv, &t.d_out, &t.out, &t.q, &t.k, &t.v})
    if (!aligned(*x)) return false;
  Key key(1);
  for (const Tensor* x : {&t.dq, &t.dk, &t.dv, &t.d_out, &t.out, &t.lse, &t.q, &t.k, &t.v})
    key.add(*x);
  key.add(options.bias).add(options.scale).add({heads, options.causal, deterministic});
  const auto describe = [&](fe::graph::Graph& graph) {
    auto sdpa = fe::graph::SDPA_backward_attributes()
                    .set_name("attention_bwd")
                    .set_attn_scale(static_cast<float>(options.scale))
                    .set_causal_mask(options.causal)
                    .set_deterministic_algorithm(deterministic);
    if (options.bias) sdpa.set_bias(graph.tensor(bias_of(options.bias)));
    const auto [dq, dk, dv] = graph.sdpa_backward(
        graph.tensor(heads_of(kQ, "q", t.q, heads)), graph.tensor(heads_of(kK, "k", t.k, heads)),
        graph.tensor(heads_of(kV, "v", t.v, heads)),
        graph.tensor(heads_of(kOut, "out", t.out, heads)),
        graph.tensor(heads_of(kDOut, "d_out", t.d_out, heads)),
        graph.tensor(attributes(kStats, "lse", stats_dim(t.lse), stats_stride(t.lse))
                         .set_data_type(fe::DataType_t::FLOAT)),
        sdpa);
    output(dq, kDQ, Heads(t.dq, heads));
    output(dk, kDK, Heads(t.dk, heads));
    output(dv, kDV, Heads(t.dv, heads));
  };
  const Plan& plan = plans_->plan(key, "this attention's backward", false, describe);
  if (!plan.graph) return false;
  Pointers pointers{{kQ, t.q.data()},     {kK, t.k.data()},        {kV, t.v.data()},
                    {kOut, t.out.data()}, {kDQ, t.dq.data()},      {kDK, t.dk.data()},
                    {kDV, t.dv.data()},   {kDOut, t.d_out.data()}, {kStats, t.lse.data()}};
  if (options.bias) pointers[kBias] = options.bias.data();
  plans_->execute(plan, pointers, "attention_bwd");
  return true;
}

namespace {

/// (B, H, W, C) as (B, C, H, W).
std::vector<int64_t> picture_dim(const Tensor& x) {
  return {x.dim(0), x.dim(3), x.dim(1), x.dim(2)};
}
std::vector<int64_t> picture_stride(const Tensor& x) {
  return {x.stride(0), 1, x.stride(1), x.stride(2)};
}

}  // namespace

bool CudnnGraphs::conv2d(const Tensor& y, const Tensor& x, const Tensor& w, const Tensor& bias,
                         const ConvOptions& options) {
  if (x.dtype() != DType::bf16 || !bias) return false;
  if (x.dim(3) % 8 != 0 || y.dim(3) % 8 != 0) return false;
  if (!aligned(y) || !aligned(x) || !aligned(w) || !aligned(bias)) return false;
  Key key(2);
  key.add(y).add(x).add(w).add(bias);
  key.add({options.stride, options.pad_before, options.pad_after});
  const Plan& plan = plans_->plan(key, "this convolution", true, [&](fe::graph::Graph& graph) {
    const auto conv = fe::graph::Conv_fprop_attributes()
                          .set_name("conv")
                          .set_pre_padding({options.pad_before, options.pad_before})
                          .set_post_padding({options.pad_after, options.pad_after})
                          .set_stride({options.stride, options.stride})
                          .set_dilation({1, 1});
    const auto product = graph.conv_fprop(
        graph.tensor(attributes(kX, "x", picture_dim(x), picture_stride(x))),
        graph.tensor(attributes(kW, "w", picture_dim(w), picture_stride(w))), conv);
    product->set_dim(picture_dim(y)).set_stride(picture_stride(y));
    const int64_t channels = y.dim(3);
    const auto sum = graph.pointwise(
        product,
        graph.tensor(
            attributes(kBias, "bias", {1, channels, 1, 1}, {channels, 1, channels, channels})),
        fe::graph::Pointwise_attributes().set_name("bias").set_mode(fe::PointwiseMode_t::ADD));
    sum->set_output(true).set_uid(kY).set_dim(picture_dim(y)).set_stride(picture_stride(y));
  });
  if (!plan.graph) return false;
  Pointers pointers{{kX, x.data()}, {kW, w.data()}, {kBias, bias.data()}, {kY, y.data()}};
  plans_->execute(plan, pointers, "conv2d");
  return true;
}

}  // namespace fluxlora::cuda
