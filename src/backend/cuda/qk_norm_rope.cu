// SPDX-License-Identifier: Apache-2.0
// RMSNorm of each head of q and k, and rotation by the positions, and the backward. A group of G
// lanes holds one head of one token; q's and k's heads follow each other.
#include "backend/cuda/cuda_ops.h"
#include "backend/cuda/reduce.cuh"
#include "backend/cuda/rows.cuh"
#include "ops/checks.h"

namespace fluxlora::cuda {
namespace {

constexpr float kEps = 1e-6f;
constexpr int kThreads = 256;

/// Tensors of the forward; in the backward q and k are dq and dk, and out is d_qkv.
template <typename T>
struct Heads {
  Rows<T> q, k, out;
  Rows<const T> qkv;
  const T *q_weight, *k_weight;
  const float* pe;  // (T, K), cos and sin in turns
  int64_t heads, width;
};

/// Packs of W columns, N of them a lane; a head is at most G * N packs. Without `Aligned` a pack is
/// read number by number.
template <int W_, int G_, int N_, bool Aligned>
struct HeadTile {
  static constexpr int W = W_, G = G_, N = N_;

  template <typename T>
  static __device__ __forceinline__ void load(float (&x)[W], const T* from) {
    if constexpr (Aligned) {
      cuda::load<W>(x, from);
    } else {
#pragma unroll
      for (int i = 0; i < W; ++i) x[i] = to_float(from[i]);
    }
  }
  template <typename T>
  static __device__ __forceinline__ void store(T* to, const float (&x)[W]) {
    if constexpr (Aligned) {
      cuda::store<W>(to, x);
    } else {
#pragma unroll
      for (int i = 0; i < W; ++i) to[i] = from_float<T>(x[i]);
    }
  }
};

/// Where this thread's group is. Groups beyond the end repeat the last, and write nothing.
template <typename Tile, typename T>
struct Place {
  int64_t batch, token, head;
  bool is_k, active;

  __device__ explicit Place(const Heads<T>& a) {
    const int64_t groups = a.qkv.batches * a.qkv.rows * 2 * a.heads;
    int64_t group = static_cast<int64_t>(blockIdx.x) * (kThreads / Tile::G) + threadIdx.x / Tile::G;
    active = group < groups;
    if (!active) group = groups - 1;
    // 32-bit division, which the launch checks to be enough.
    const auto g = static_cast<unsigned>(group);
    const auto in_token = g % static_cast<unsigned>(2 * a.heads);
    const auto row = g / static_cast<unsigned>(2 * a.heads);
    is_k = in_token >= a.heads;
    head = is_k ? in_token - a.heads : in_token;
    batch = row / static_cast<unsigned>(a.qkv.rows);
    token = row % static_cast<unsigned>(a.qkv.rows);
  }
  /// First column of pack p of this lane within the head.
  __device__ int64_t column(int p) const {
    return (p * Tile::G + static_cast<int>(threadIdx.x) % Tile::G) * Tile::W;
  }
  __device__ T* head_of(const Rows<T>& rows, int64_t width) const {
    return rows.row(batch, token) + head * width;
  }
  /// This head among the columns of qkv.
  __device__ int64_t qkv_column(const Heads<T>& a) const {
    return (is_k ? a.heads + head : head) * a.width;
  }
};

/// x = the lane's numbers of a head, 0 beyond its end.
template <typename Tile, typename P, typename T>
__device__ __forceinline__ void load_head(float (&x)[Tile::N][Tile::W], const T* head,
                                          const P& place, int64_t width) {
#pragma unroll
  for (int p = 0; p < Tile::N; ++p) {
    float pack[Tile::W] = {};
    if (place.column(p) < width) Tile::load(pack, head + place.column(p));
#pragma unroll
    for (int i = 0; i < Tile::W; ++i) x[p][i] = pack[i];
  }
}

template <typename Tile>
__device__ __forceinline__ float dot(const float (&a)[Tile::N][Tile::W],
                                     const float (&b)[Tile::N][Tile::W]) {
  float sum = 0;
#pragma unroll
  for (int p = 0; p < Tile::N; ++p)
#pragma unroll
    for (int i = 0; i < Tile::W; ++i) sum = fmaf(a[p][i], b[p][i], sum);
  return group_sum<Tile::G>(sum);
}

template <typename Tile, typename T>
__global__ void __launch_bounds__(kThreads) qk_norm_rope_kernel(Heads<T> a) {
  const Place<Tile, T> place(a);
  const T* const head = a.qkv.row(place.batch, place.token) + place.qkv_column(a);
  float x[Tile::N][Tile::W];
  load_head<Tile>(x, head, place, a.width);
  const float inverse = 1.0f / sqrtf(dot<Tile>(x, x) / static_cast<float>(a.width) + kEps);
  T* const y = place.head_of(place.is_k ? a.k : a.q, a.width);
  const T* const weight = place.is_k ? a.k_weight : a.q_weight;
#pragma unroll
  for (int p = 0; p < Tile::N; ++p) {
    const int64_t column = place.column(p);
    if (!place.active || column >= a.width) continue;
    float w[Tile::W], pe[Tile::W];
    Tile::load(w, weight + column);
    Tile::load(pe, a.pe + place.token * a.width + column);
#pragma unroll
    for (int i = 0; i < Tile::W; i += 2) {
      const float u = x[p][i] * inverse * w[i], v = x[p][i + 1] * inverse * w[i + 1];
      w[i] = u * pe[i] - v * pe[i + 1];
      w[i + 1] = u * pe[i + 1] + v * pe[i];
    }
    Tile::store(y + column, w);
  }
}

/// With g = w Rᵀ dy: dx = (g - x mean(g x) / rms²) / rms.
template <typename Tile, typename T>
__global__ void __launch_bounds__(kThreads) qk_norm_rope_bwd_kernel(Heads<T> a) {
  const Place<Tile, T> place(a);
  const int64_t at = place.qkv_column(a);
  float x[Tile::N][Tile::W], g[Tile::N][Tile::W];
  load_head<Tile>(x, a.qkv.row(place.batch, place.token) + at, place, a.width);
  load_head<Tile>(g, place.head_of(place.is_k ? a.k : a.q, a.width), place, a.width);
  const T* const weight = place.is_k ? a.k_weight : a.q_weight;
#pragma unroll
  for (int p = 0; p < Tile::N; ++p) {
    const int64_t column = place.column(p);
    if (column >= a.width) continue;
    float w[Tile::W], pe[Tile::W];
    Tile::load(w, weight + column);
    Tile::load(pe, a.pe + place.token * a.width + column);
#pragma unroll
    for (int i = 0; i < Tile::W; i += 2) {
      const float u = g[p][i], v = g[p][i + 1];
      g[p][i] = (u * pe[i] + v * pe[i + 1]) * w[i];
      g[p][i + 1] = (v * pe[i] - u * pe[i + 1]) * w[i + 1];
    }
  }
  const auto width = static_cast<float>(a.width);
  const float inverse = 1.0f / sqrtf(dot<Tile>(x, x) / width + kEps);
  const float slope = dot<Tile>(g, x) * inverse * inverse / width;
  T* const dx = a.out.row(place.batch, place.token) + at;
#pragma unroll
  for (int p = 0; p < Tile::N; ++p) {
    if (!place.active || place.column(p) >= a.width) continue;
    float result[Tile::W];
#pragma unroll
    for (int i = 0; i < Tile::W; ++i) result[i] = (g[p][i] - x[p][i] * slope) * inverse;
    Tile::store(dx + place.column(p), result);
  }
}

template <typename T>
Heads<T> heads_of(const Tensor& q, const Tensor& k, const Tensor& out, const Tensor& qkv,
                  const Tensor& q_weight, const Tensor& k_weight, const Tensor& pe, int64_t heads) {
  return {Rows<T>(q),
          Rows<T>(k),
          Rows<T>(out),
          Rows<const T>(qkv),
          q_weight.as<const T>(),
          k_weight.as<const T>(),
          pe.as<const float>(),
          heads,
          q.dim(-1) / heads};
}

/// Whether heads of all tensors can be read in packs of 16 bytes.
template <typename T>
bool heads_pack(const Heads<T>& a) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  Rows<const T> qkv = a.qkv;
  Rows<T> out = a.out;
  qkv.columns = out.columns = a.width;  // packs lie within heads
  return a.width % kWidth<T> == 0 && all_pack(kWidth<T>, a.q, a.k, qkv, out) &&
         aligned(a.q_weight) && aligned(a.k_weight) && aligned(a.pe);
}

/// Calls launch(HeadTile, blocks) with a tile for heads of this width.
template <typename T, typename F>
void with_head_tile(const Heads<T>& a, F&& launch) {
  CHECK(a.width <= 256, "qk_norm_rope: heads of " + std::to_string(a.width));
  const int64_t groups = a.qkv.batches * a.qkv.rows * 2 * a.heads;
  CHECK(groups < (int64_t{1} << 32), "qk_norm_rope: " + std::to_string(groups) + " heads");
  if (groups == 0) return;
  const auto use = [&]<typename Tile>(Tile tile) {
    launch(tile, blocks_for(groups, kThreads / Tile::G));
  };
  constexpr int W = kWidth<T>;
  if (!heads_pack(a)) return use(HeadTile<2, 32, 4, false>{});
  const int64_t packs = a.width / W;
  if (packs <= 4) return use(HeadTile<W, 4, 1, true>{});
  if (packs <= 8) return use(HeadTile<W, 8, 1, true>{});
  if (packs <= 16) return use(HeadTile<W, 16, 1, true>{});
  if (packs <= 32) return use(HeadTile<W, 32, 1, true>{});
  if constexpr (W == 4) use(HeadTile<W, 32, 2, true>{});
}

}  // namespace

void CudaOps::qk_norm_rope(const Tensor& q, const Tensor& k, const Tensor& qkv,
                           const Tensor& q_weight, const Tensor& k_weight, const Tensor& pe,
                           int64_t heads) {
  checks::qk_norm_rope(q, k, qkv, q_weight, k_weight, pe, heads);
  for_activations(q.dtype(), [&]<typename T>(T) {
    const Heads<T> a = heads_of<T>(q, k, {}, qkv, q_weight, k_weight, pe, heads);
    with_head_tile(a, [&]<typename Tile>(Tile, unsigned blocks) {
      qk_norm_rope_kernel<Tile><<<blocks, kThreads, 0, stream()>>>(a);
      CUDA_CHECK_LAUNCH();
    });
  });
}

void CudaOps::qk_norm_rope_bwd(const Tensor& d_qkv, const Tensor& dq, const Tensor& dk,
                               const Tensor& qkv, const Tensor& q_weight, const Tensor& k_weight,
                               const Tensor& pe, int64_t heads) {
  checks::qk_norm_rope(dq, dk, qkv, q_weight, k_weight, pe, heads);
  checks::qk_norm_rope(dq, dk, d_qkv, q_weight, k_weight, pe, heads);
  for_activations(dq.dtype(), [&]<typename T>(T) {
    const Heads<T> a = heads_of<T>(dq, dk, d_qkv, qkv, q_weight, k_weight, pe, heads);
    with_head_tile(a, [&]<typename Tile>(Tile, unsigned blocks) {
      qk_norm_rope_bwd_kernel<Tile><<<blocks, kThreads, 0, stream()>>>(a);
      CUDA_CHECK_LAUNCH();
    });
  });
}

}  // namespace fluxlora::cuda
