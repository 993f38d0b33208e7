// SPDX-License-Identifier: Apache-2.0
// The training step that bench_step and bench_adapters measure, on any device.
#pragma once

#include <cmath>
#include <memory>
#include <utility>

#include "base/philox.h"
#include "lora/adapter.h"
#include "model/flux/transformer.h"

namespace fluxlora::bench {

/// Normal numbers for whatever is asked, again and again from one block of a million.
class Normal {
 public:
  explicit Normal(Device& device) : device_(device), host_(DType::f32, {1 << 20}) {
    Philox philox(1, Draw::init);
    for (int64_t i = 0; i < host_.view.size(); ++i)
      host_.view.as<float>()[i] = static_cast<float>(philox.normal());
    memory_ = device.allocate(host_.view.bytes());
    numbers_ = Tensor(DType::f32, {host_.view.size()}, memory_.data());
  }

  void fill(const Tensor& x, double scale) const {
    const HostTensor scaled(DType::f32, {host_.view.size()});
    for (int64_t i = 0; i < scaled.view.size(); ++i)
      scaled.view.as<float>()[i] = static_cast<float>(scale) * host_.view.as<float>()[i];
    device_.upload(numbers_, scaled.view.data());
    in_pieces(x, [&](const Tensor& piece) {
      device_.ops().cast(piece, numbers_.slice(0, 0, piece.size()));
    });
    device_.synchronize();
  }

  /// A matrix N(0, 1/in), so that numbers stay of ordinary size.
  void fill(const Weight& w) const {
    const double scale = 1 / std::sqrt(static_cast<double>(w.in()));
    if (!is_quantised(w.format)) return fill(w.values, scale);
    const DType act = device_.is_host() ? DType::f32 : DType::bf16;
    const Buffer memory = device_.allocate(w.out() * w.in() * dtype_size(act));
    const Tensor plain(act, {w.out(), w.in()}, memory.data());
    fill(plain, scale);
    device_.ops().quantise(w, plain);
    device_.synchronize();
  }

 private:
  template <typename F>
  void in_pieces(const Tensor& x, const F& f) const {
    const Tensor flat(x.dtype(), {x.size()}, x.data());
    for (int64_t at = 0; at < x.size(); at += host_.view.size())
      f(flat.slice(0, at, std::min(host_.view.size(), x.size() - at)));
  }

  Device& device_;
  HostTensor host_;
  Buffer memory_;
  Tensor numbers_;
};

/// A step (forward, loss, backward, update) with its adapters, workspace and optimizer state, on
/// random pictures. Adapters start as in a run, B being 0.
struct TrainingStep {
  TrainingStep(Device& d, flux::Transformer& m, const flux::Sizes& z, const lora::Options& options,
               const Normal& normal)
      : device(d),
        adapters(d, m.weights(), lora::select_targets(m.config(), options), m.act(), true) {
    adapters.measure_rows(m.loaded());
    adapters.initialise(1, "kaiming");
    if (options.init == "pissa") adapters.subtract_start();
    if (options.dropout > 0) adapters.use_dropout(options);
    adapters.draw_dropout(1, 1, 1);
    work = std::make_unique<flux::Workspace>(m, z, flux::WorkspaceOptions{.training = true});
    const int64_t N = z.B * z.N() * m.config().in_channels, P = adapters.size();
    memory = device.allocate((2 * N + 2 * P + 2 * z.B + 4) * static_cast<int64_t>(sizeof(float)));
    const Tensor flat(DType::f32, {memory.bytes() / 4}, memory.data());
    int64_t at = 0;
    const auto take = [&](int64_t size) {
      return flat.slice(0, std::exchange(at, at + size), size);
    };
    x0 = take(N).reshaped({z.B, z.N(), m.config().in_channels});
    noise = take(N).reshaped({z.B, z.N(), m.config().in_channels});
    moment1 = take(P);
    moment2 = take(P);
    loss = take(z.B);
    weight = take(z.B);
    norm = take(1);
    scalars = take(3);
    device.ops().fill(flat, 0);
    for (const Tensor& x : {x0, noise}) normal.fill(x, 1);
    const flux::Inputs& in = work->inputs();
    for (const Tensor& x : {in.img, in.txt, in.pooled}) normal.fill(x, 1);
    device.ops().fill(in.t, 0.5);
    device.ops().fill(in.guidance, 1);
    device.ops().fill(weight, 1.0 / static_cast<double>(z.B));
    device.ops().fill(scalars, 1e-4);
  }

  void run() {
    Ops& op = device.ops();
    adapters.clear_gradients();
    op.flow_interpolate(work->inputs().img, x0, noise, work->inputs().t);
    work->forward();
    op.flow_loss(loss, work->d_prediction(), work->prediction(), x0, noise, weight);
    work->backward();
    adapters.finish_gradients();
    op.global_norm(norm, adapters.grads());
    op.adamw_step(adapters.params(), moment1, moment2, adapters.grads(), norm, scalars, {});
    adapters.refresh();
  }

  Device& device;
  lora::AdapterSet adapters;
  std::unique_ptr<flux::Workspace> work;
  Buffer memory;
  Tensor x0, noise, loss, weight, moment1, moment2, norm, scalars;
};

}  // namespace fluxlora::bench
