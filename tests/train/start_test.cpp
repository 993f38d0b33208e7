// SPDX-License-Identifier: Apache-2.0
// Starts that are not zero: that they are what they claim to be, and that training begins at the
// base model all the same.
#include "train/start.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "data/dataset.h"
#include "export/matrices.h"
#include "tensor/compare.h"
#include "train/fill_in.h"
#include "train/run_fixture.h"
#include "train/step.h"
#include "unit/expect_error.h"

namespace fluxlora::train {
namespace {

class Start : public ::testing::Test {
 protected:
  Start() {
    paint_dataset(folder / "pictures", 3);
    options = small_options(folder.path(), "run");
    fill_in(options, open_model(options.model));
    options.lora.rank = 3;
    options.lora.alpha = 6;  // so that a forgotten scale shows
    options.lora.targets = {"transformer_blocks.0.attn.to_k", "single_blocks.0.linear2"};
    options.lora.ga_batches = 2;
    files = open_model(options.model);
    dataset = scan(options.dataset, options.subject.trigger);
    encoded = encode(*device, files, dataset, options,
                     {[](const std::string&) {}, [](const std::string&) {}, [] { return false; }});
    model = std::make_unique<flux::Transformer>(*device, files.transformer, DType::f32);
    specs = lora::select_targets(model->config(), options.lora);
  }

  /// W of spec i, f32.
  HostTensor weight(size_t i) {
    HostTensor rows(DType::f32, {specs[i].rows, specs[i].in});
    flux::visit_linears(model->weights(), [&](const std::string& bfl, AdaptedLinear& layer) {
      if (bfl == specs[i].bfl)
        device->ops().copy(rows.view, layer.weight.values.slice(0, specs[i].row0, specs[i].rows));
    });
    return rows;
  }

  /// The whole gradient of W of spec i, as that of B beside A = 1.
  HostTensor whole_gradient(size_t i) {
    lora::AdapterSpec wide = specs[i];
    wide.rank = wide.in;
    wide.alpha = static_cast<double>(wide.in);
    lora::AdapterSet set(*device, model->weights(), {wide}, DType::f32, true);
    for (const lora::Segment& segment : set.segments()) {
      if (segment.role != lora::Role::a) continue;
      for (int64_t r = 0; r < segment.rows; ++r)
        set.params().as<float>()[segment.offset + r * segment.columns + r] = 1;
    }
    RunOptions replay = options;
    replay.train.accumulation = options.lora.ga_batches;
    replay.train.caption_dropout = 0;
    Stepper(*model, dataset.examples, encoded, replay).gradients(set, 0);
    HostTensor g(DType::f32, {wide.rows, wide.in});
    for (const lora::Segment& segment : set.segments())
      if (segment.role == lora::Role::b)
        device->ops().copy(g.view, set.grads()
                                       .slice(0, segment.offset, segment.rows * segment.columns)
                                       .reshaped({segment.rows, segment.columns}));
    return g;
  }

  HostTensor product(const Tensor& b, const Tensor& a, double scale) {
    HostTensor c(DType::f32, {b.dim(0), a.dim(1)});
    exporting::multiply(c.view, b, a, static_cast<float>(scale));
    return c;
  }
  static double energy(const Tensor& m) {
    double sum = 0;
    for (int64_t i = 0; i < m.size(); ++i) sum += double{m.as<float>()[i]} * m.as<float>()[i];
    return sum;
  }
  static HostTensor transposed(const Tensor& m) {
    HostTensor t(DType::f32, {m.dim(1), m.dim(0)});
    for (int64_t i = 0; i < m.dim(0); ++i)
      for (int64_t j = 0; j < m.dim(1); ++j)
        t.view.as<float>()[j * m.dim(0) + i] = m.as<float>()[i * m.dim(1) + j];
    return t;
  }

  TemporaryFolder folder;
  std::unique_ptr<Device> device = open_device("cpu");
  RunOptions options;
  ModelFiles files;
  Dataset dataset;
  Encoded encoded;
  std::unique_ptr<flux::Transformer> model;
  std::vector<lora::AdapterSpec> specs;
};

TEST_F(Start, PissaIsTheWeightsPrincipalPart) {
  const exporting::LoraFile start = principal_start(*model, specs, 1);
  for (size_t i = 0; i < specs.size(); ++i) {
    const HostTensor w = weight(i);
    // Eckart and Young: what is left is the energy of the other singular values.
    const exporting::Spectrum all =
        exporting::spectrum_of(w.view, std::min(specs[i].rows, specs[i].in));
    const HostTensor part = product(start.B[i].view, start.A[i].view, specs[i].scale());
    HostTensor rest(DType::f32, {specs[i].rows, specs[i].in});
    device->ops().copy(rest.view, w.view);
    device->ops().add_scaled(rest.view, part.view, -1);
    const double least = all.energy * (1 - all.kept(specs[i].rank));
    EXPECT_GT(least, 0);
    EXPECT_NEAR(energy(rest.view) / least, 1, 1e-3) << specs[i].module;
  }
}

TEST_F(Start, LoraGaHasTheGradientsDirections) {
  const exporting::LoraFile start =
      gradient_start(*model, specs, {dataset.examples, encoded}, options);
  for (size_t i = 0; i < specs.size(); ++i) {
    const lora::AdapterSpec& s = specs[i];
    const HostTensor g = whole_gradient(i);
    const exporting::Spectrum all = exporting::spectrum_of(g.view, std::min(s.rows, s.in));
    const Tensor &A = start.A[i].view, &B = start.B[i].view;
    // Orthonormal directions times the paper's factor.
    const double square = std::sqrt(static_cast<double>(s.rows)) / options.lora.ga_gamma;
    const HostTensor aa = product(A, transposed(A).view, 1), bb = product(transposed(B).view, B, 1);
    for (int64_t r = 0; r < s.rank; ++r)
      for (int64_t c = 0; c < s.rank; ++c) {
        EXPECT_NEAR(aa.view.as<float>()[r * s.rank + c], r == c ? square : 0, 1e-4 * square);
        EXPECT_NEAR(bb.view.as<float>()[r * s.rank + c], r == c ? square : 0, 1e-4 * square);
      }
    // A spans the R first right directions, B the next R left ones, as well as 2R random vectors
    // find them: half of the best is far more than chance, which is R / in.
    const double best_a = all.energy * all.kept(s.rank);
    const double found_a = energy(product(g.view, transposed(A).view, 1).view) / square;
    EXPECT_GT(found_a, 0.8 * best_a) << s.module;
    EXPECT_LE(found_a, 1.0001 * best_a) << s.module;
    const double best_b = all.energy * (all.kept(2 * s.rank) - all.kept(s.rank));
    const double found_b = energy(product(transposed(B).view, g.view, 1).view) / square;
    EXPECT_GT(found_b, 0.4 * best_b) << s.module;
  }
}

/// The adapted model is the base one at step 0, and its gradient is not.
TEST_F(Start, TrainingBeginsAtTheBase) {
  const std::vector<std::vector<Pick>> picks{{{0}}, {{1}}};
  options.train.accumulation = 2;
  const auto loss = [&](lora::AdapterSet& set) {
    return Stepper(*model, dataset.examples, encoded, options).accumulate(set, 0, picks).loss;
  };
  double base = 0;
  {
    lora::AdapterSet none(*device, model->weights(), specs, DType::f32, true);
    base = loss(none);
  }
  for (const char* init : {"pissa", "lora_ga"}) {
    const exporting::LoraFile start =
        std::string(init) == "pissa"
            ? principal_start(*model, specs, 1)
            : gradient_start(*model, specs, {dataset.examples, encoded}, options);
    lora::AdapterSet set(*device, model->weights(), specs, DType::f32, true);
    exporting::upload(set, 0, start);
    EXPECT_GT(std::fabs(loss(set) - base), 1e-3 * base) << init << " is not nothing";
    set.subtract_start();
    EXPECT_NEAR(loss(set), base, 1e-5 * base) << init;
    const auto* const g = set.grads().as<const float>();
    for (const lora::Segment& segment : set.segments())
      EXPECT_TRUE(std::any_of(g + segment.offset, g + segment.offset + segment.rows, [](float x) {
        return x != 0;
      })) << init;
    set.set_multiplier(0);
    EXPECT_EQ(loss(set), base) << "m = 0 is the base bit for bit";
  }
}

TEST_F(Start, DoraHasAStartOfItsOwn) {
  options.lora.type = "dora";
  options.lora.init = "lora_ga";
  EXPECT_ERROR(fill_in(options, files), bad_input, "lora.init", "dora");
}

}  // namespace
}  // namespace fluxlora::train
