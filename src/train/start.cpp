// SPDX-License-Identifier: Apache-2.0
#include "train/start.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/philox.h"
#include "export/matrices.h"
#include "train/step.h"

namespace fluxlora::train {
namespace {

constexpr int64_t kMore = 8;  // directions beyond the rank, which make the last ones good
constexpr int kRounds = 6;    // of subspace iteration

HostTensor normal_numbers(uint64_t seed, size_t spec, int64_t rows, int64_t columns) {
  Philox random(seed, Draw::init, static_cast<uint32_t>(spec));
  HostTensor host(DType::f32, {rows, columns});
  std::generate_n(host.view.as<float>(), host.view.size(),
                  [&] { return static_cast<float>(random.normal()); });
  return host;
}

HostTensor transposed(const Tensor& m) {
  HostTensor result(DType::f32, {m.dim(1), m.dim(0)});
  for (int64_t i = 0; i < m.dim(0); ++i)
    for (int64_t j = 0; j < m.dim(1); ++j)
      result.view.as<float>()[j * m.dim(0) + i] = m.as<const float>()[i * m.dim(1) + j];
  return result;
}

HostTensor as(const Tensor& host, DType dtype) {
  HostTensor result(dtype, {host.dim(0), host.dim(1)});
  convert(dtype, result.view.data(), host.dtype(), host.data(), host.size());
  return result;
}

/// A weight on the device as a matrix of the rows [row0, row0 + rows).
class Rows {
 public:
  Rows(Device& device, const Weight& weight, DType act, int64_t row0, int64_t rows, int64_t k)
      : device_(device),
        weight_(weight),
        row0_(row0),
        rows_(rows),
        memory_(device.allocate(k * (weight.in() + weight.out()) * dtype_size(act))),
        x_(act, {k, weight.in()}, memory_.data()),
        y_(act, {k, weight.out()},
           static_cast<char*>(memory_.data()) + k * weight.in() * dtype_size(act)) {}

  /// x Wᵀ (k, rows) of x (k, in), f32.
  HostTensor times(const Tensor& x) {
    device_.upload(x_, as(x, x_.dtype()).view.data());
    device_.ops().linear(y_, x_, weight_, {});
    const HostTensor all = download(y_);
    HostTensor own(DType::f32, {y_.dim(0), rows_});
    for (int64_t i = 0; i < y_.dim(0); ++i)
      std::copy_n(all.view.as<const float>() + i * y_.dim(1) + row0_, rows_,
                  own.view.as<float>() + i * rows_);
    return own;
  }
  /// y W (k, in) of y (k, rows), f32.
  HostTensor transpose_times(const Tensor& y) {
    HostTensor all(DType::f32, {y_.dim(0), y_.dim(1)});
    std::fill_n(all.view.as<float>(), all.view.size(), 0.0f);
    for (int64_t i = 0; i < y_.dim(0); ++i)
      std::copy_n(y.as<const float>() + i * rows_, rows_,
                  all.view.as<float>() + i * y_.dim(1) + row0_);
    device_.upload(y_, as(all.view, y_.dtype()).view.data());
    device_.ops().linear_dx(x_, y_, weight_, Grad::overwrite);
    return download(x_);
  }

 private:
  HostTensor download(const Tensor& view) {
    const HostTensor host(view.dtype(), {view.dim(0), view.dim(1)});
    device_.download(host.view.data(), view);
    return as(host.view, DType::f32);
  }

  Device& device_;
  const Weight& weight_;
  int64_t row0_, rows_;
  Buffer memory_;
  Tensor x_, y_;
};

/// The rows of m made orthonormal.
HostTensor orthonormal_rows(const Tensor& m) {
  return transposed(exporting::orthonormal(transposed(m).view).view);
}

/// A probe's parameters: all A, or all B, the other zero.
void fill_probe(lora::AdapterSet& probe, lora::Role role, const std::vector<HostTensor>& matrices) {
  for (const lora::Segment& segment : probe.segments()) {
    HostTensor host(DType::f32, {segment.rows, segment.columns});
    std::fill_n(host.view.as<float>(), host.view.size(), 0.0f);
    const Tensor& from = segment.role == role ? matrices[segment.spec].view : host.view;
    probe.upload(segment, as(from, probe.params().dtype()).view);
  }
}

/// The gradients of all A or all B by spec, f32.
std::vector<HostTensor> probe_gradients(Device& device, const lora::AdapterSet& probe,
                                        lora::Role role) {
  std::vector<HostTensor> all(probe.specs().size());
  for (const lora::Segment& segment : probe.segments()) {
    if (segment.role != role) continue;
    const HostTensor host(probe.grads().dtype(), {segment.rows, segment.columns});
    device.download(host.view.data(),
                    probe.grads().slice(0, segment.offset, segment.rows * segment.columns));
    all[segment.spec] = as(host.view, DType::f32);
  }
  return all;
}

/// m in the upper left corner of zeros (rows, columns).
HostTensor padded(const Tensor& m, int64_t rows, int64_t columns) {
  HostTensor result(DType::f32, {rows, columns});
  std::fill_n(result.view.as<float>(), result.view.size(), 0.0f);
  for (int64_t i = 0; i < m.dim(0); ++i)
    std::copy_n(m.as<const float>() + i * m.dim(1), m.dim(1),
                result.view.as<float>() + i * columns);
  return result;
}

/// A and B out of the gradient's singular vectors.
void choose_directions(const exporting::Spectrum& gradient, const lora::AdapterSpec& spec,
                       const lora::Options& options, exporting::LoraFile& file) {
  const int64_t R = spec.rank, found = static_cast<int64_t>(gradient.sigma.size());
  const double stable =
      std::pow(static_cast<double>(spec.rows), 0.25) / std::sqrt(options.ga_gamma);
  const double size = options.ga_scale == "gd" ? 1 / spec.scale() : stable;
  HostTensor A(DType::f32, {R, spec.in}), B(DType::f32, {spec.rows, R});
  std::fill_n(A.view.as<float>(), A.view.size(), 0.0f);
  std::fill_n(B.view.as<float>(), B.view.size(), 0.0f);
  // Where the layer has fewer than 2R directions the last R of them are B's.
  const int64_t first_b = std::max<int64_t>(0, std::min(R, found - R));
  for (int64_t k = 0; k < std::min(R, found); ++k) {
    const double *const v = gradient.v.data() + k * spec.in, *const u = gradient.u.data() +
                                                                        (first_b + k) * spec.rows;
    for (int64_t i = 0; i < spec.in; ++i)
      A.view.as<float>()[k * spec.in + i] = static_cast<float>(size * v[i]);
    for (int64_t i = 0; i < spec.rows; ++i)
      B.view.as<float>()[i * R + k] = static_cast<float>(size * u[i]);
  }
  file.A.push_back(std::move(A));
  file.B.push_back(std::move(B));
}

}  // namespace

bool starts_off_zero(const lora::Options& options) {
  return options.init == "pissa" || options.init == "lora_ga";
}

exporting::LoraFile principal_start(flux::Transformer& model,
                                    const std::vector<lora::AdapterSpec>& specs, uint64_t seed) {
  exporting::LoraFile file;
  file.specs = specs;
  file.A.resize(specs.size());
  file.B.resize(specs.size());
  file.magnitude.resize(specs.size());
  model.loaded().visit_resident([&](const std::string& bfl, AdaptedLinear& layer) {
    for (size_t i = 0; i < specs.size(); ++i) {
      const lora::AdapterSpec& s = specs[i];
      if (s.bfl != bfl) continue;
      const int64_t k = std::min({s.rank + kMore, s.rows, s.in});
      Rows rows(model.device(), layer.weight, model.act(), s.row0, s.rows, k);
      HostTensor y = rows.times(normal_numbers(seed, i, k, s.in).view);  // (k, rows)
      for (int round = 0; round < kRounds; ++round) {
        const HostTensor x = rows.transpose_times(orthonormal_rows(y.view).view);
        y = rows.times(orthonormal_rows(x.view).view);
      }
      const HostTensor q = orthonormal_rows(y.view);
      const exporting::Spectrum spectrum = exporting::spectrum_of_product(
          transposed(q.view).view, rows.transpose_times(q.view).view, 1 / s.scale());
      const exporting::Factors factors =
          exporting::factors_of(spectrum, std::min(s.rank, k), DType::f32);
      file.A[i] = padded(factors.A.view, s.rank, s.in);
      file.B[i] = padded(factors.B.view, s.rows, s.rank);
    }
  });
  return file;
}

exporting::LoraFile gradient_start(flux::Transformer& model,
                                   const std::vector<lora::AdapterSpec>& specs,
                                   const Pictures& pictures, const RunOptions& options) {
  std::vector<lora::AdapterSpec> probes = specs;
  for (lora::AdapterSpec& probe : probes) {
    probe.rank = std::min({2 * probe.rank, probe.rows, probe.in});
    probe.alpha = static_cast<double>(probe.rank);
  }
  lora::AdapterSet probe(model.device(), model.weights(), probes, model.act(), /*trains=*/true);
  RunOptions replay = options;
  replay.train.accumulation = options.lora.ga_batches;
  replay.train.preservation = 0;
  replay.train.caption_dropout = 0;
  Stepper stepper(model, pictures.examples, pictures.encoded, replay, pictures.keep);
  const auto seed = static_cast<uint64_t>(options.train.seed);
  const auto gradients = [&](lora::Role set, const std::vector<HostTensor>& to, lora::Role of) {
    fill_probe(probe, set, to);
    stepper.gradients(probe, 0);
    return probe_gradients(model.device(), probe, of);
  };

  std::vector<HostTensor> omega;
  for (size_t i = 0; i < probes.size(); ++i)
    omega.push_back(normal_numbers(seed, i, probes[i].rank, probes[i].in));
  std::vector<HostTensor> q = gradients(lora::Role::a, omega, lora::Role::b);  // (rows, K)
  for (HostTensor& columns : q) columns = exporting::orthonormal(columns.view);
  const std::vector<HostTensor> z = gradients(lora::Role::b, q, lora::Role::a);  // (K, in)

  exporting::LoraFile file;
  file.specs = specs;
  file.magnitude.resize(specs.size());
  for (size_t i = 0; i < specs.size(); ++i)
    choose_directions(exporting::spectrum_of_product(q[i].view, z[i].view, 1), specs[i],
                      options.lora, file);
  return file;
}

}  // namespace fluxlora::train
