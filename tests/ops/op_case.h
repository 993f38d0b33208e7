// SPDX-License-Identifier: Apache-2.0
// What the tests of operations share: random tensors, poisoned outputs, and the three checks that
// every operation passes: f32 against f64, strided views against contiguous ones, and gradients
// against central differences.
#pragma once

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "backend/cpu/cpu_device.h"
#include "base/philox.h"
#include "tensor/buffer.h"
#include "tensor/compare.h"

namespace fluxlora::testing {

using Shape = std::vector<int64_t>;

/// Element (b, t, c) of a rank 3 view, (0, t, c) of rank 2, (0, 0, c) of rank 1, as double.
inline double& at(const Tensor& x, int64_t b, int64_t t, int64_t c) {
  const int64_t offset =
      (x.rank() >= 3 ? b * x.stride(-3) : 0) + (x.rank() >= 2 ? t * x.stride(-2) : 0) + c;
  return x.as<double>()[offset];
}

/// <a, b> of contiguous f64 tensors.
inline double dot(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.size(); ++i) sum += a.as<double>()[i] * b.as<double>()[i];
  return sum;
}

/// An argument of an operation: its sizes, and whether it is read, written or both.
struct Arg {
  enum Role { in, out, both };
  Role role;
  Shape shape;
  double scale = 1, offset = 0;  // values are offset + scale * normal
  bool may_be_strided = true;
};
inline Arg in(Shape shape, double scale = 1, double offset = 0) {
  return {Arg::in, std::move(shape), scale, offset};
}
inline Arg out(Shape shape) {
  return {Arg::out, std::move(shape)};
}
inline Arg both(Shape shape) {
  return {Arg::both, std::move(shape)};
}
/// An argument that its contract wants contiguous.
inline Arg whole(Arg arg) {
  arg.may_be_strided = false;
  return arg;
}

class OpTest : public ::testing::Test {
 protected:
  Ops& ops() { return device_->ops(); }

  /// A tensor of NaN: what an operation forgets to write shows.
  Tensor poisoned(const Shape& shape, DType dtype = DType::f64) {
    storage_.emplace_back(dtype, shape.data(), static_cast<int>(shape.size()));
    const Tensor& x = storage_.back().view;
    constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
    for (int64_t i = 0; i < x.size(); ++i) put(x, i, kNan);
    return x;
  }

  /// offset + scale * normal, each value one that f32 holds exactly.
  Tensor random(const Shape& shape, double scale = 1, double offset = 0, DType dtype = DType::f64) {
    Philox philox(7, Draw::init, static_cast<uint32_t>(++drawn_));
    const Tensor x = poisoned(shape, dtype);
    for (int64_t i = 0; i < x.size(); ++i)
      put(x, i, static_cast<float>(offset + scale * philox.normal()));
    return x;
  }

  Tensor copy_of(const Tensor& x) {
    const Tensor y = poisoned(shape_of(x), x.dtype());
    ops().copy(y, x);
    return y;
  }

  /// A view with x's values and gaps around its rows and items; the gaps hold NaN.
  Tensor strided(const Tensor& x) {
    Shape shape = shape_of(x);
    if (shape.size() < 2 || shape.size() > 3) return x;
    for (size_t i = 1; i < shape.size(); ++i) shape[i] += 3;
    Tensor view = poisoned(shape, x.dtype());
    if (x.rank() == 3) view = view.tokens(2, x.dim(1));
    view = view.columns(1, x.dim(-1));
    ops().copy(view, x);
    return view;
  }

  using Call = std::function<void(const std::vector<Tensor>&)>;

  /// The outputs of `call` with random arguments; the same numbers whatever dtype and layout.
  std::vector<Tensor> outputs(const std::vector<Arg>& args, DType dtype, bool with_strides,
                              const Call& call) {
    const int drawn = std::exchange(drawn_, 1000);
    std::vector<Tensor> tensors, results;
    for (const Arg& arg : args) {
      Tensor x = random(arg.shape, arg.scale, arg.offset, dtype);
      if (arg.role == Arg::out) x = poisoned(arg.shape, dtype);
      tensors.push_back(with_strides && arg.may_be_strided ? strided(x) : x);
    }
    drawn_ = drawn;
    call(tensors);
    for (size_t i = 0; i < args.size(); ++i) {
      if (args[i].role != Arg::in) results.push_back(copy_of(tensors[i]));
    }
    return results;
  }

  /// f32 against f64, and strided views against contiguous tensors. `call` must not care for
  /// dtypes.
  void check(const std::vector<Arg>& args, const Call& call, double tolerance = 1e-5) {
    const auto f64 = outputs(args, DType::f64, false, call);
    compare(f64, outputs(args, DType::f32, false, call), tolerance, "f32 against f64");
    compare(f64, outputs(args, DType::f64, true, call), 1e-13, "strided against contiguous, f64");
    compare(f64, outputs(args, DType::f32, true, call), tolerance, "strided f32 against f64");
    const auto once = outputs(args, DType::f32, false, call);
    const auto twice = outputs(args, DType::f32, false, call);
    for (size_t i = 0; i < once.size(); ++i)
      EXPECT_EQ(max_difference(once[i], twice[i]), 0) << "twice the same, output " << i;
  }

  /// The operation in f64 against plain loops that write the same outputs.
  void check_formula(const std::vector<Arg>& args, const Call& call, const Call& formula) {
    const auto mine = outputs(args, DType::f64, false, call);
    compare(outputs(args, DType::f64, false, formula), mine, 1e-12, "formula");
    check(args, call);
  }

  /// `gradient` against central differences of `loss` along two random directions of `x`. The error
  /// is measured against |gradient|, the size of a typical directional derivative.
  void expect_gradient(const std::function<double()>& loss, const Tensor& x, const Tensor& gradient,
                       const std::string& what) {
    const double h = 1e-5;
    for (int trial = 0; trial < 2; ++trial) {
      const Tensor start = copy_of(x), direction = random(shape_of(x));
      ops().add_scaled(x, direction, h);
      const double above = loss();
      ops().copy(x, start);
      ops().add_scaled(x, direction, -h);
      const double below = loss();
      ops().copy(x, start);
      const double length = std::sqrt(dot(gradient, gradient));
      ASSERT_GT(length, 0) << what;
      EXPECT_NEAR((above - below) / (2 * h), dot(gradient, direction), 1e-6 * length) << what;
    }
  }

  static Shape shape_of(const Tensor& x) {
    Shape shape;
    for (int i = 0; i < x.rank(); ++i) shape.push_back(x.dim(i));
    return shape;
  }

 private:
  static void put(const Tensor& x, int64_t i, double value) {
    if (x.dtype() == DType::f64)
      x.as<double>()[i] = value;
    else
      x.as<float>()[i] = static_cast<float>(value);
  }

  void compare(const std::vector<Tensor>& expected, const std::vector<Tensor>& got,
               double tolerance, const std::string& what) {
    for (size_t i = 0; i < expected.size(); ++i) {
      const Tensor wide = poisoned(shape_of(got[i]));
      ops().cast(wide, got[i]);
      EXPECT_LE(relative_error(wide, expected[i]), tolerance) << what << ", output " << i;
    }
  }

  std::unique_ptr<Device> device_ = open_cpu_device();
  std::vector<HostTensor> storage_;
  int drawn_ = 0;
};

}  // namespace fluxlora::testing
