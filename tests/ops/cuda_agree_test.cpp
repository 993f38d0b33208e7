// SPDX-License-Identifier: Apache-2.0
// The CUDA backend's own kernels against the CPU backend in f64: odd sizes, strided views, the real
// widths. Skipped without a GPU.
#include "cuda_case.h"

namespace fluxlora::testing {
namespace {

using Agree = CudaTest;
using Tensors = std::vector<Tensor>;

constexpr int64_t kD = 3072, kS = 4608;  // FLUX.1 at 1024x1024 with 512 text tokens
/// The real widths run whole and in bf16 alone: the CPU's f64 takes its time.
const Tolerances kReal{.with_f32 = false, .strided = false};

/// (B, T, D) to try: odd, vectorised, one token, wider than a block's threads.
const std::vector<Shape> kShapes{{2, 7, 13}, {3, 70, 160}, {1, 1, 8}, {2, 33, 1040}, {1, 5, 4096}};

Shape vectors(const Shape& s) {
  return {s[0], s[2]};
}
Shape statistics(const Shape& s) {
  return {s[0], s[1], 2};
}
GpuArg saved_stats(const Shape& s) {
  return in(statistics(s), 0.1, 0.8).stats();
}

// ---- memory -------------------------------------------------------------------------------------

TEST_F(Agree, Copy) {
  for (const Shape& s : {Shape{2, 7, 13}, Shape{3, 9, 64}, Shape{5, 24}, Shape{2, 3, 4, 16}})
    agree({out(s), in(s)}, [](Ops& op, const Tensors& a) { op.copy(a[0], a[1]); });
}

TEST_F(Agree, CopyBetweenLayouts) {
  for (const int64_t columns : {13, 64})
    agree({out({2, 7, columns}), in({2, 7, columns + 16}).whole()},
          [&](Ops& op, const Tensors& a) { op.copy(a[0], a[1].columns(8, columns)); });
}

TEST_F(Agree, Fill) {
  for (const double value : {0.0, 1.5})
    for (const Shape& s : {Shape{2, 7, 13}, Shape{3, 64}, Shape{1000}, Shape{2, 3, 4, 8}})
      agree({out(s)}, [&](Ops& op, const Tensors& a) { op.fill(a[0], value); });
}

TEST_F(Agree, AddScaled) {
  for (const Shape& s : {Shape{2, 7, 13}, Shape{3, 9, 64}, Shape{999}, Shape{2, 3, 4, 16}})
    agree({both(s), in(s)}, [](Ops& op, const Tensors& a) { op.add_scaled(a[0], a[1], -0.75); });
}

TEST_F(Agree, CastRoundsAsTheHost) {
  const int64_t n = 100003;
  GpuTensor single(gpu(), DType::f32, {n}, Layout::whole);
  GpuTensor narrow(gpu(), DType::bf16, {n}, Layout::whole);
  GpuTensor back(gpu(), DType::f32, {n}, Layout::whole);
  Philox random(5, Draw::init, 1);
  for (int64_t i = 0; i < n; ++i) put(single.host_view(), i, std::exp(8 * random.normal()));
  for (GpuTensor* t : {&single, &narrow, &back}) t->upload();
  gpu().ops().cast(narrow.device_view(), single.device_view());
  gpu().ops().cast(back.device_view(), narrow.device_view());
  single.download(true, "source");
  narrow.download(false, "bf16");
  back.download(false, "f32");
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t expected = f32_to_bf16(static_cast<float>(get(single.host_view(), i)));
    ASSERT_EQ(narrow.host_view().as<uint16_t>()[i], expected) << i;
    ASSERT_EQ(get(back.host_view(), i), double{bf16_to_f32(expected)}) << i;
  }
}

// ---- norms and modulation -----------------------------------------------------------------------

TEST_F(Agree, LnModulate) {
  const GpuCall call = [](Ops& op, const Tensors& a) {
    op.ln_modulate(a[0], a[1], a[2], a[3], a[4]);
  };
  const auto args = [](const Shape& s) {
    return std::vector<GpuArg>{out(s), out(statistics(s)).stats(), in(s, 2, 0.5), in(vectors(s)),
                               in(vectors(s))};
  };
  for (const Shape& s : kShapes) agree(args(s), call);
  agree(args({1, kS, kD}), call, kReal);
}

TEST_F(Agree, LnModulateKeepsDigitsBesideALargeMean) {
  const Shape s{1, 9, 64};
  agree({out(s), out(statistics(s)).stats(), in(s, 1, 100), in(vectors(s)), in(vectors(s))},
        [](Ops& op, const Tensors& a) { op.ln_modulate(a[0], a[1], a[2], a[3], a[4]); },
        {.f32 = 1e-4});
}

TEST_F(Agree, LnModulateBackward) {
  for (const Grad mode : {Grad::overwrite, Grad::accumulate}) {
    const GpuCall call = [mode](Ops& op, const Tensors& a) {
      op.ln_modulate_bwd(a[0], a[1], a[2], a[3], a[4], a[5], a[6], mode);
    };
    const GpuCall without = [mode](Ops& op, const Tensors& a) {
      op.ln_modulate_bwd(a[0], {}, {}, a[1], a[2], a[3], a[4], mode);
    };
    const auto dx = [mode](const Shape& s) { return mode == Grad::overwrite ? out(s) : both(s); };
    for (const Shape& s : kShapes) {
      agree({dx(s), out(vectors(s)), out(vectors(s)), in(s), in(s), saved_stats(s), in(vectors(s))},
            call);
      agree({dx(s), in(s), in(s), saved_stats(s), in(vectors(s))}, without);
    }
    const Shape s{1, kS, kD};
    agree({dx(s), out(vectors(s)), out(vectors(s)), in(s), in(s), saved_stats(s), in(vectors(s))},
          call, kReal);
  }
  const Shape s{2, 71, 33};
  agree({out(vectors(s)), out(vectors(s)), in(s), in(s), saved_stats(s), in(vectors(s))},
        [](Ops& op, const Tensors& a) {
          op.ln_modulate_bwd({}, a[0], a[1], a[2], a[3], a[4], a[5], Grad::ignore);
        });
}

TEST_F(Agree, GateAdd) {
  for (const Shape& s : kShapes) {
    agree({out(s), in(s), in(s), in(vectors(s))},
          [](Ops& op, const Tensors& a) { op.gate_add(a[0], a[1], a[2], a[3]); });
    agree({both(s), in(s), in(vectors(s))},
          [](Ops& op, const Tensors& a) { op.gate_add(a[0], a[0], a[1], a[2]); });
  }
}

TEST_F(Agree, GateAddBackward) {
  const GpuCall call = [](Ops& op, const Tensors& a) {
    op.gate_add_bwd(a[0], a[1], a[2], a[3], a[4]);
  };
  for (const Shape& s : kShapes) {
    agree({out(s), out(vectors(s)), in(s), in(s), in(vectors(s))}, call);
    agree({out(s), in(s), in(vectors(s))},
          [](Ops& op, const Tensors& a) { op.gate_add_bwd(a[0], {}, a[1], {}, a[2]); });
  }
  const Shape s{1, kS, kD};
  agree({out(s), out(vectors(s)), in(s), in(s), in(vectors(s))}, call, kReal);
}

TEST_F(Agree, GateAddLnModulate) {
  const GpuCall call = [](Ops& op, const Tensors& a) {
    op.gate_add_ln_modulate(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
  };
  const auto args = [](const Shape& s) {
    return std::vector<GpuArg>{out(s),         out(s),        out(statistics(s)).stats(),
                               in(s),          in(s),         in(vectors(s)),
                               in(vectors(s)), in(vectors(s))};
  };
  for (const Shape& s : kShapes) {
    agree(args(s), call);
    // Without a branch: x_out is a copy of x, or x itself.
    agree({out(s), out(s), out(statistics(s)).stats(), in(s), in(vectors(s)), in(vectors(s))},
          [](Ops& op, const Tensors& a) {
            op.gate_add_ln_modulate(a[0], a[1], a[2], a[3], {}, {}, a[4], a[5]);
          });
    agree({out(s), out(statistics(s)).stats(), both(s), in(vectors(s)), in(vectors(s))},
          [](Ops& op, const Tensors& a) {
            op.gate_add_ln_modulate(a[2], a[0], a[1], a[2], {}, {}, a[3], a[4]);
          });
  }
  agree(args({1, kS, kD}), call, kReal);
}

TEST_F(Agree, GateAddLnModulateBackward) {
  const GpuCall call = [](Ops& op, const Tensors& a) {
    op.gate_add_ln_modulate_bwd(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10]);
  };
  const auto args = [](const Shape& s) {
    return std::vector<GpuArg>{both(s),         out(s), out(vectors(s)), out(vectors(s)),
                               out(vectors(s)), in(s),  in(s),           saved_stats(s),
                               in(vectors(s)),  in(s),  in(vectors(s))};
  };
  for (const Shape& s : kShapes) {
    agree(args(s), call);
    agree({both(s), out(s), in(s), in(s), saved_stats(s), in(vectors(s)), in(vectors(s))},
          [](Ops& op, const Tensors& a) {
            op.gate_add_ln_modulate_bwd(a[0], a[1], {}, {}, {}, a[2], a[3], a[4], a[5], {}, a[6]);
          });
    agree({both(s), in(s), in(s), saved_stats(s), in(vectors(s))}, [](Ops& op, const Tensors& a) {
      op.gate_add_ln_modulate_bwd(a[0], {}, {}, {}, {}, a[1], a[2], a[3], a[4], {}, {});
    });
  }
  agree(args({1, kS, kD}), call, kReal);
}

TEST_F(Agree, LayerNorm) {
  for (const Shape& s : kShapes) {
    agree({out(s), out(statistics(s)).stats(), in(s, 2, 0.5), in({s[2]}), in({s[2]})},
          [](Ops& op, const Tensors& a) { op.layer_norm(a[0], a[1], a[2], a[3], a[4], 1e-5); });
    agree({out(s), in(s), in({s[2]}), in({s[2]})},
          [](Ops& op, const Tensors& a) { op.layer_norm(a[0], {}, a[1], a[2], a[3], 1e-5); });
    for (const Grad mode : {Grad::overwrite, Grad::accumulate})
      agree({mode == Grad::overwrite ? out(s) : both(s), in(s), in(s), saved_stats(s), in({s[2]})},
            [mode](Ops& op, const Tensors& a) {
              op.layer_norm_bwd(a[0], a[1], a[2], a[3], a[4], mode);
            });
  }
}

TEST_F(Agree, RmsNorm) {
  for (const Shape& s : kShapes)
    agree({out(s), in(s, 3), in({s[2]})},
          [](Ops& op, const Tensors& a) { op.rms_norm(a[0], a[1], a[2], 1e-6); });
}

TEST_F(Agree, GroupNorm) {
  struct Size {
    int64_t B, P, C, groups;
  };
  for (const Size z : {Size{2, 77, 24, 3}, Size{1, 1000, 128, 32}, Size{2, 257, 512, 32},
                       Size{1, 9, 15, 5}, Size{1, 65536, 256, 32}})
    for (const bool silu : {false, true})
      agree({out({z.B, z.P, z.C}), in({z.B, z.P, z.C}, 2, 3), in({z.C}), in({z.C})},
            [&](Ops& op, const Tensors& a) {
              op.group_norm(a[0], a[1], a[2], a[3], z.groups, 1e-6, silu);
            });
  agree({both({1, 300, 64}), in({64}), in({64})},
        [](Ops& op, const Tensors& a) { op.group_norm(a[0], a[0], a[1], a[2], 32, 1e-6, true); });
}

// ---- rotation -----------------------------------------------------------------------------------

TEST_F(Agree, QkNormRope) {
  struct Size {
    int64_t B, T, H, K, extra;
  };
  const auto try_size = [&](const Size& z, const Tolerances& t) {
    const int64_t D = z.H * z.K;
    const Shape s{z.B, z.T, D}, wide{z.B, z.T, 2 * D + z.extra};
    const GpuArg pe = in({z.T, z.K / 2, 2}, 0.7).stats().whole();
    agree(
        {out(s), out(s), in(wide), in({z.K}), in({z.K}), pe},
        [&](Ops& op, const Tensors& a) {
          op.qk_norm_rope(a[0], a[1], a[2], a[3], a[4], a[5], z.H);
        },
        t);
    // Columns beyond 2D keep what they held: d_qkv's v columns belong to the attention.
    agree(
        {out({z.B, z.T, 2 * D}), in(s), in(s), in(wide), in({z.K}), in({z.K}), pe},
        [&](Ops& op, const Tensors& a) {
          op.qk_norm_rope_bwd(a[0], a[1], a[2], a[3], a[4], a[5], a[6], z.H);
        },
        t);
  };
  for (const Size z : {Size{2, 7, 3, 32, 96}, Size{1, 19, 2, 40, 0}, Size{2, 5, 4, 64, 256},
                       Size{1, 33, 3, 128, 384}, Size{1, 6, 2, 256, 512}, Size{1, 3, 2, 6, 5}})
    try_size(z, {});
  try_size({1, kS, 24, 128, kD + 4 * kD}, kReal);
}

// ---- pointwise ----------------------------------------------------------------------------------

TEST_F(Agree, Activations) {
  for (const Shape& s : {Shape{2, 7, 13}, Shape{3, 33, 160}, Shape{2, 12288}}) {
    agree({out(s), in(s, 3)}, [](Ops& op, const Tensors& a) { op.gelu_tanh(a[0], a[1]); });
    agree({out(s), in(s), in(s, 3)},
          [](Ops& op, const Tensors& a) { op.gelu_tanh_bwd(a[0], a[1], a[2]); });
    agree({both(s), in(s, 3)},
          [](Ops& op, const Tensors& a) { op.gelu_tanh_bwd(a[0], a[0], a[1]); });
    agree({out(s), in(s, 3)}, [](Ops& op, const Tensors& a) { op.silu(a[0], a[1]); });
    for (const Grad mode : {Grad::overwrite, Grad::accumulate})
      agree({mode == Grad::overwrite ? out(s) : both(s), in(s), in(s, 3)},
            [mode](Ops& op, const Tensors& a) { op.silu_bwd(a[0], a[1], a[2], mode); });
    agree({out(s), in(s, 3)}, [](Ops& op, const Tensors& a) { op.quick_gelu(a[0], a[1]); });
    agree({out(s), in(s), in(s, 3)},
          [](Ops& op, const Tensors& a) { op.quick_gelu_bwd(a[0], a[1], a[2]); });
    agree({out(s), in(s, 3), in(s)},
          [](Ops& op, const Tensors& a) { op.gelu_gate(a[0], a[1], a[2]); });
  }
}

TEST_F(Agree, ActivationsFarFromZero) {
  agree({out({1, 4, 512}), in({1, 4, 512}, 60)},
        [](Ops& op, const Tensors& a) { op.gelu_tanh(a[0], a[1]); });
  agree({out({1, 4, 512}), in({1, 4, 512}, 60)},
        [](Ops& op, const Tensors& a) { op.silu(a[0], a[1]); });
}

// ---- embeddings, pictures -----------------------------------------------------------------------

TEST_F(Agree, Embed) {
  for (const int64_t C : {13, 64})
    agree({out({2, 9, C}), ids({2, 9}, 50), in({50, C}).whole()},
          [](Ops& op, const Tensors& a) { op.embed(a[0], a[1], a[2]); });
}

/// f32 against f32: the angles reach 1000, of which the reference keeps f32's digits.
TEST_F(Agree, TimestepEmbed) {
  for (const int64_t C : {256, 30})
    agree({out({3, C}), in({3}, 0.2, 0.5).stats()},
          [](Ops& op, const Tensors& a) { op.timestep_embed(a[0], a[1]); },
          {.reference = DType::f32});
}

TEST_F(Agree, Upsample) {
  for (const int64_t C : {3, 64})
    agree({out({2, 10, 14, C}), in({2, 5, 7, C})},
          [](Ops& op, const Tensors& a) { op.upsample2x(a[0], a[1]); });
}

// ---- adapters -----------------------------------------------------------------------------------

TEST_F(Agree, Dropout) {
  for (const Shape& s : {Shape{3, 7, 13}, Shape{2, 4096, 64}, Shape{5, 16}})
    agree({both(s), ids({5}, 1000)}, [](Ops& op, const Tensors& a) {
      op.dropout(a[0], {.rate = 0.3, .layer = 4, .draw = a[1]});
    });
}

TEST_F(Agree, DoraGain) {
  for (const int64_t R : {4, 16})
    agree({out({300}).stats(), out({300, R}), in({300}, 0.2, 2).stats(), in({300}, 0.1, 50).stats(),
           in({R, 300}), in({300, R}), in({300, R})},
          [](Ops& op, const Tensors& a) {
            op.dora_gain(a[0], a[1], a[2], {a[3], a[4], a[5], a[6], 0.3});
          });
}

TEST_F(Agree, DoraScale) {
  for (const Shape& s : {Shape{3, 7, 13}, Shape{2, 1000, 96}}) {
    const int64_t C = s[2];
    agree({both(s), in({C}), in({C}, 0.2, 1).stats(), in({C}, 0.2, 2).stats(), in({1}).singles()},
          [](Ops& op, const Tensors& a) { op.dora_scale(a[0], a[1], {a[2], a[3], a[4]}); });
    agree({both(s), both({C}).stats(), in(s), in({C}), in({C}, 0.2, 1).stats(),
           in({C}, 0.2, 2).stats(), in({1}).singles()},
          [](Ops& op, const Tensors& a) {
            op.dora_scale_bwd(a[0], a[1], a[2], a[3], {a[4], a[5], a[6]});
          });
  }
}

// ---- flow, update -------------------------------------------------------------------------------

TEST_F(Agree, FlowInterpolate) {
  for (const Shape& s : {Shape{3, 7, 13}, Shape{2, 4096, 64}})
    agree({out(s), in(s).stats(), in(s).stats(), in({s[0]}, 0.1, 0.5).stats()},
          [](Ops& op, const Tensors& a) { op.flow_interpolate(a[0], a[1], a[2], a[3]); });
}

TEST_F(Agree, FlowLoss) {
  for (const Shape& s : {Shape{3, 7, 13}, Shape{2, 4096, 64}}) {
    agree({out({s[0]}).stats(), out(s), in(s), in(s).stats(), in(s).stats(), in({s[0]}).stats()},
          [](Ops& op, const Tensors& a) { op.flow_loss(a[0], a[1], a[2], a[3], a[4], a[5]); });
    const Shape shares{s[0], s[1], s[2] % 4 == 0 ? 4 : 1};
    agree(
        {out({s[0]}).stats(), out(s), in(s), in(s).stats(), in(s).stats(), in({s[0]}).stats(),
         in(shares, 0.3, 1).stats()},
        [](Ops& op, const Tensors& a) { op.flow_loss(a[0], a[1], a[2], a[3], a[4], a[5], a[6]); });
    agree({out({s[0]}).stats(), in(s), in(s).stats(), in(s).stats()},
          [](Ops& op, const Tensors& a) { op.flow_loss(a[0], {}, a[1], a[2], a[3], {}); });
    agree({out({s[0]}).stats(), out(s), in(s), in(s).stats(), in(s).stats(), in({s[0]}).stats()},
          [](Ops& op, const Tensors& a) {
            op.flow_loss(a[0], a[1], a[2], a[3], a[4], a[5], {}, {0.5, 2});
          });
  }
}

TEST_F(Agree, GlobalNorm) {
  for (const int64_t n : {1, 20001, 1 << 20, 10000003})
    agree({out({1}).stats(), in({n}).stats()},
          [](Ops& op, const Tensors& a) { op.global_norm(a[0], a[1]); });
}

TEST_F(Agree, AdamW) {
  for (const double max_norm : {0.0, 1.0, 1e6})
    for (const int64_t n : {300, 10007}) {
      const AdamWOptions o{
          .beta1 = 0.8, .beta2 = 0.99, .eps = 1e-7, .weight_decay = 0.1, .max_norm = max_norm};
      const GpuCall call = [&](Ops& op, const Tensors& a) {
        for (int step = 1; step <= 3; ++step) {
          op.global_norm(a[4], a[3]);
          op.fill(a[5].slice(0, 0, 1), 0.01 * step);
          op.fill(a[5].slice(0, 1, 1), 1 - std::pow(o.beta1, step));
          op.fill(a[5].slice(0, 2, 1), 1 - std::pow(o.beta2, step));
          op.adamw_step(a[0], a[1], a[2], a[3], a[4], a[5], o);
        }
      };
      agree({both({n}).stats(), both({n}, 0.0).stats(), both({n}, 0.0).stats(), in({n}).stats(),
             out({1}).stats(), out({3}).stats()},
            call);
    }
}

TEST_F(Agree, Lion) {
  for (const double max_norm : {0.0, 1.0})
    for (const int64_t n : {300, 10007}) {
      const LionOptions o{.beta1 = 0.8, .beta2 = 0.9, .weight_decay = 0.1, .max_norm = max_norm};
      const GpuCall call = [&](Ops& op, const Tensors& a) {
        op.global_norm(a[3], a[2]);
        op.fill(a[4], 0.01);
        for (int step = 1; step <= 3; ++step) op.lion_step(a[0], a[1], a[2], a[3], a[4], o);
      };
      agree({both({n}).stats(), both({n}).stats(), in({n}).stats(), out({1}).stats(),
             out({1}).stats()},
            call);
    }
}

TEST_F(Agree, ScheduleFree) {
  for (const int64_t n : {300, 10007}) {
    const ScheduleFreeOptions o{.beta1 = 0.8, .beta2 = 0.99, .weight_decay = 0.1, .max_norm = 5};
    const GpuCall call = [&](Ops& op, const Tensors& a) {
      op.global_norm(a[4], a[3]);
      for (int step = 1; step <= 3; ++step) {
        op.fill(a[5].slice(0, 0, 1), 0.01);
        op.fill(a[5].slice(0, 1, 1), 1.0 / step);
        op.fill(a[5].slice(0, 2, 1), 1 - std::pow(o.beta2, step));
        op.schedule_free_step(a[0], a[1], a[2], a[3], a[4], a[5], o);
      }
    };
    agree({both({n}).stats(), both({n}).stats(), both({n}, 0.0).stats(), in({n}).stats(),
           out({1}).stats(), out({3}).stats()},
          call);
  }
}

TEST_F(Agree, Prodigy) {
  for (const int64_t n : {300, 100003}) {
    const ProdigyOptions o{.beta1 = 0.8, .beta2 = 0.99, .beta3 = 0.9, .max_norm = 5};
    const GpuCall call = [&](Ops& op, const Tensors& a) {
      const ProdigyState state{a[1], a[2], a[3], a[4]};
      op.global_norm(a[6], a[5]);
      for (int step = 1; step <= 3; ++step) {
        op.fill(a[7].slice(0, 0, 1), 0.1 * step);
        op.fill(a[7].slice(0, 1, 1), 0.3);
        op.prodigy_moments(a[8], a[0], state, a[5], a[6], a[7], o);
        op.prodigy_step(a[0], state, a[7], o);
      }
    };
    const GpuArg flat = in({n}).stats(), zero = both({n}, 0.0).stats();
    agree({both({n}).stats(), zero, zero, zero, flat, flat, out({1}).stats(), out({2}).stats(),
           out({2}).stats()},
          call);
  }
}

TEST_F(Agree, Adafactor) {
  for (const Shape& s : {Shape{16, 3072}, Shape{3072, 16}, Shape{1, 77}, Shape{5, 1}})
    for (const bool scale : {false, true}) {
      const AdafactorOptions o{.weight_decay = 0.1, .scale_parameter = scale, .max_norm = 5};
      const GpuCall call = [&](Ops& op, const Tensors& a) {
        const Tensor flat = a[3].reshaped({a[3].size()});
        op.global_norm(a[4], flat);
        for (int step = 1; step <= 3; ++step) {
          op.fill(a[5].slice(0, 0, 1), 0.1);
          op.fill(a[5].slice(0, 1, 1), 1 - std::pow(step, -0.8));
          op.adafactor_step(a[0], a[1], a[2], a[3], a[4], a[5], o);
        }
      };
      agree({both(s).stats().whole(), both({s[0]}, 0.0).stats(), both({s[1]}, 0.0).stats(),
             in(s).stats().whole(), out({1}).stats(), out({2}).stats()},
            call);
    }
}

/// Both backends from the same codes. A code may be the neighbour's where a value lies between two.
TEST_F(Agree, AdamW8bit) {
  const int64_t n = 1000, blocks = 4;
  const auto cpu = open_cpu_device();
  const AdamWOptions o{.weight_decay = 0.1, .max_norm = 0};
  std::vector<float> start(n), grads(n), meanings;
  for (const double first : {-1.0, 0.0})
    for (int i = 0; i < 256; ++i)
      meanings.push_back(static_cast<float>(first + (1 - first) * i / 255));
  Philox random(3, Draw::init, 2);
  for (float& x : start) x = static_cast<float>(random.normal());
  for (float& x : grads) x = static_cast<float>(random.normal());
  const auto run = [&](Device& device) {
    const Buffer memory = device.allocate(1 << 16);
    char* next = static_cast<char*>(memory.data());
    const auto take = [&](DType dtype, int64_t count, const void* values) {
      const Tensor x(dtype, {count}, next);
      next += (x.bytes() + 63) / 64 * 64;
      const std::vector<char> zeros(static_cast<size_t>(x.bytes()));
      device.upload(x, values ? values : zeros.data());
      return x;
    };
    const Tensor p = take(DType::f32, n, start.data()), g = take(DType::f32, n, grads.data());
    const Moments8 moments{take(DType::u8, n, nullptr), take(DType::u8, n, nullptr),
                           take(DType::f32, blocks, nullptr), take(DType::f32, blocks, nullptr),
                           take(DType::f32, 512, meanings.data())};
    const float numbers[3] = {0.01f, 0.1f, 0.001f}, one = 1;
    const Tensor scalars = take(DType::f32, 3, numbers), norm = take(DType::f32, 1, &one);
    for (int step = 0; step < 3; ++step)
      device.ops().adamw8bit_step(p, moments, g, norm, scalars, o);
    std::vector<float> end(n);
    device.download(end.data(), p);
    return end;
  };
  const std::vector<float> ours = run(gpu()), expected = run(*cpu);
  int64_t apart = 0;
  for (size_t i = 0; i < ours.size(); ++i)
    apart += std::abs(ours[i] - expected[i]) > 1e-5f * (1 + std::abs(expected[i]));
  EXPECT_LE(apart, 3);
}

}  // namespace
}  // namespace fluxlora::testing
