// SPDX-License-Identifier: Apache-2.0
// How an operation of the GPU is held against the CPU's: the same random numbers through both,
// every output poisoned, canaries around every tensor, whole tensors and strided views, run twice.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "backend/cpu/cpu_device.h"
#include "backend/cuda/cuda_device.h"
#include "base/philox.h"
#include "tensor/buffer.h"
#include "tensor/compare.h"

namespace fluxlora::testing {

using Shape = std::vector<int64_t>;

/// An argument: its sizes, what is done with it, and whose element type it has.
struct GpuArg {
  enum Role { in, out, both };
  enum Kind { act, stat, single, id };  // single: f32 whatever the others are
  Role role;
  Shape shape;
  Kind kind = act;
  double scale = 1, offset = 0;  // values are offset + scale * normal; ids are below `scale`
  bool may_be_strided = true;

  GpuArg stats() const {
    return with([](GpuArg& a) { a.kind = stat; });
  }
  GpuArg singles() const {
    return with([](GpuArg& a) { a.kind = single; });
  }
  /// One that its contract wants contiguous.
  GpuArg whole() const {
    return with([](GpuArg& a) { a.may_be_strided = false; });
  }

 private:
  template <typename F>
  GpuArg with(F&& change) const {
    GpuArg copy = *this;
    change(copy);
    return copy;
  }
};
inline GpuArg in(Shape shape, double scale = 1, double offset = 0) {
  return {GpuArg::in, std::move(shape), GpuArg::act, scale, offset};
}
inline GpuArg out(Shape shape) {
  return {GpuArg::out, std::move(shape)};
}
inline GpuArg both(Shape shape, double scale = 1) {
  return {GpuArg::both, std::move(shape), GpuArg::act, scale};
}
inline GpuArg ids(Shape shape, int64_t below) {
  return {GpuArg::in, std::move(shape), GpuArg::id, static_cast<double>(below), 0, false};
}

/// Whole tensors; rows and items apart by multiples of 16 bytes; apart by odd numbers of elements.
enum class Layout { whole, aligned, odd };

/// Tensors in the order of the arguments.
using GpuCall = std::function<void(Ops&, const std::vector<Tensor>&)>;

struct Tolerances {
  double f32 = 1e-5, bf16 = 1e-2;
  bool with_f32 = true;          ///< false: bf16 alone
  bool strided = true;           ///< false: whole tensors alone
  DType reference = DType::f64;  ///< f32 where f64 would take the CPU too long
};

/// Calls f(offset in elements) for each element of a view, in order.
template <typename F>
void for_elements(const Tensor& x, F&& f) {
  int64_t shape[4] = {1, 1, 1, 1}, stride[4] = {};
  for (int i = 0; i < x.rank(); ++i) {
    shape[4 - x.rank() + i] = x.dim(i);
    stride[4 - x.rank() + i] = x.stride(i);
  }
  for (int64_t a = 0; a < shape[0]; ++a)
    for (int64_t b = 0; b < shape[1]; ++b)
      for (int64_t c = 0; c < shape[2]; ++c)
        for (int64_t d = 0; d < shape[3]; ++d)
          f(a * stride[0] + b * stride[1] + c * stride[2] + d * stride[3]);
}

inline void put(const Tensor& x, int64_t at, double value) {
  if (x.dtype() == DType::f64) x.as<double>()[at] = value;
  if (x.dtype() == DType::f32) x.as<float>()[at] = static_cast<float>(value);
  if (x.dtype() == DType::bf16) x.as<uint16_t>()[at] = f32_to_bf16(static_cast<float>(value));
  if (x.dtype() == DType::i32) x.as<int32_t>()[at] = static_cast<int32_t>(value);
}

inline double get(const Tensor& x, int64_t at) {
  if (x.dtype() == DType::f64) return x.as<double>()[at];
  if (x.dtype() == DType::f32) return double{x.as<float>()[at]};
  return double{bf16_to_f32(x.as<uint16_t>()[at])};
}

inline HostTensor host_tensor(DType dtype, const Shape& shape) {
  return {dtype, shape.data(), static_cast<int>(shape.size())};
}

/// One argument in the GPU's memory, with an image of its whole allocation on the host. Every byte
/// that is not part of the tensor is 0xff, which is also a NaN in each type: canary and poison.
class GpuTensor {
 public:
  GpuTensor(Device& gpu, DType dtype, const Shape& shape, Layout layout) : gpu_(gpu) {
    const int64_t gap = layout == Layout::odd ? 3 : 32, shift = layout == Layout::odd ? 1 : 16;
    const bool strided = layout != Layout::whole && (shape.size() == 2 || shape.size() == 3);
    Shape outer = shape;
    for (size_t i = 1; strided && i < outer.size(); ++i) outer[i] += gap;
    int64_t count = 1;
    for (const int64_t n : outer) count *= n;
    bytes_ = count * dtype_size(dtype);
    memory_ = gpu.allocate(bytes_ + 2 * kGuard);
    image_.assign(static_cast<size_t>(bytes_ + 2 * kGuard), 0xff);
    const auto view = [&](void* base) {
      Tensor x(dtype, outer.data(), static_cast<int>(outer.size()),
               static_cast<char*>(base) + kGuard);
      if (!strided) return x;
      if (x.rank() == 3) x = x.tokens(2, shape[1]);
      return x.columns(shift, shape.back());
    };
    device_view_ = view(memory_.data());
    host_view_ = view(image_.data());
  }

  const Tensor& device_view() const { return device_view_; }
  const Tensor& host_view() const { return host_view_; }
  void upload() { gpu_.upload(whole(), image_.data()); }
  /// Fetches the allocation. Reports bytes around the tensor that are no longer as they were, and,
  /// of a tensor that was only read, any that changed.
  void download(bool read_only, const std::string& what) {
    std::vector<uint8_t> now(image_.size());
    gpu_.download(now.data(), whole());
    std::vector<uint8_t> expected = image_;
    if (!read_only) {
      const auto size = static_cast<size_t>(dtype_size(host_view_.dtype()));
      const auto start =
          static_cast<size_t>(static_cast<uint8_t*>(host_view_.data()) - image_.data());
      for_elements(host_view_, [&](int64_t at) {
        const size_t first = start + static_cast<size_t>(at) * size;
        std::memcpy(&expected[first], &now[first], size);
      });
    }
    EXPECT_TRUE(now == expected) << what
                                 << (read_only ? ": an input changed" : ": canaries changed");
    std::memcpy(image_.data(), now.data(), now.size());
  }

 private:
  static constexpr int64_t kGuard = 512;
  Tensor whole() const {
    return {DType::u8, {static_cast<int64_t>(image_.size())}, memory_.data()};
  }

  Device& gpu_;
  Buffer memory_;
  std::vector<uint8_t> image_;
  Tensor device_view_, host_view_;
  int64_t bytes_ = 0;
};

class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const auto fault = cuda_fault(0)) GTEST_SKIP() << fault->two_lines();
    gpu_ = open_cuda_device(0);
  }

  Device& gpu() { return *gpu_; }
  Device& cpu() { return *cpu_; }

  /// `call` on the GPU against the CPU, for f32 and bf16 and all layouts.
  void agree(const std::vector<GpuArg>& args, const GpuCall& call, const Tolerances& t = {}) {
    for (const DType act : {DType::f32, DType::bf16}) {
      if (act == DType::f32 && !t.with_f32) continue;
      const auto numbers = draw(args, act);
      const auto expected = on_cpu(args, numbers, call, t.reference);
      for (const Layout layout : {Layout::whole, Layout::aligned, Layout::odd}) {
        if (layout != Layout::whole && !t.strided) break;
        static const char* const kNames[] = {"whole", "aligned", "odd"};
        const std::string what =
            std::string(safetensors_name(act)) + ", " + kNames[static_cast<int>(layout)];
        const auto once = on_gpu(args, numbers, call, act, layout, what);
        const auto twice = on_gpu(args, numbers, call, act, layout, what);
        for (size_t i = 0; i < once.size(); ++i) {
          if (!once[i].view) continue;
          const std::string which = what + ", argument " + std::to_string(i);
          const double tolerance = act == DType::bf16 ? t.bf16 : t.f32;
          EXPECT_LE(relative_error(once[i].view, expected[i].view), tolerance) << which;
          EXPECT_EQ(max_difference(once[i].view, twice[i].view), 0) << which << ": two runs differ";
        }
      }
    }
  }

  /// Values of all arguments, such that each is a number of the type it will have.
  static std::vector<std::vector<double>> draw(const std::vector<GpuArg>& args, DType act) {
    std::vector<std::vector<double>> all;
    for (const GpuArg& arg : args) {
      Philox random(11, Draw::init, static_cast<uint32_t>(all.size() + 1));
      int64_t count = 1;
      for (const int64_t n : arg.shape) count *= n;
      std::vector<double> values(static_cast<size_t>(count));
      for (double& v : values) {
        if (arg.kind == GpuArg::id) {
          v = std::min(std::floor(random.uniform() * arg.scale), arg.scale - 1);
          continue;
        }
        const auto single = static_cast<float>(arg.offset + arg.scale * random.normal());
        const bool narrow = act == DType::bf16 && arg.kind == GpuArg::act;
        v = narrow ? double{bf16_to_f32(f32_to_bf16(single))} : double{single};
      }
      all.push_back(std::move(values));
    }
    return all;
  }

 private:
  using Numbers = std::vector<std::vector<double>>;

  std::vector<HostTensor> on_cpu(const std::vector<GpuArg>& args, const Numbers& numbers,
                                 const GpuCall& call, DType dtype) {
    std::vector<HostTensor> storage;
    std::vector<Tensor> tensors;
    for (size_t i = 0; i < args.size(); ++i) {
      const DType type = args[i].kind == GpuArg::id       ? DType::i32
                         : args[i].kind == GpuArg::single ? DType::f32
                                                          : dtype;
      storage.push_back(host_tensor(type, args[i].shape));
      for (int64_t at = 0; at < storage[i].view.size(); ++at)
        put(storage[i].view, at,
            args[i].role == GpuArg::out ? std::numeric_limits<double>::quiet_NaN()
                                        : numbers[i][static_cast<size_t>(at)]);
      tensors.push_back(storage[i].view);
    }
    call(cpu_->ops(), tensors);
    std::vector<HostTensor> results(args.size());
    for (size_t i = 0; i < args.size(); ++i)
      if (args[i].role != GpuArg::in) results[i] = wide(storage[i].view);
    return results;
  }

  std::vector<HostTensor> on_gpu(const std::vector<GpuArg>& args, const Numbers& numbers,
                                 const GpuCall& call, DType act, Layout layout,
                                 const std::string& what) {
    std::vector<std::unique_ptr<GpuTensor>> storage;
    std::vector<Tensor> tensors;
    for (size_t i = 0; i < args.size(); ++i) {
      const GpuArg& arg = args[i];
      const DType type = arg.kind == GpuArg::id    ? DType::i32
                         : arg.kind == GpuArg::act ? act
                                                   : DType::f32;
      storage.push_back(std::make_unique<GpuTensor>(gpu(), type, arg.shape,
                                                    arg.may_be_strided ? layout : Layout::whole));
      const Tensor& view = storage[i]->host_view();
      size_t n = 0;
      if (arg.role != GpuArg::out)
        for_elements(view, [&](int64_t at) { put(view, at, numbers[i][n++]); });
      storage[i]->upload();
      tensors.push_back(storage[i]->device_view());
    }
    call(gpu().ops(), tensors);
    gpu().synchronize();
    std::vector<HostTensor> results(args.size());
    for (size_t i = 0; i < args.size(); ++i) {
      storage[i]->download(args[i].role == GpuArg::in, what + ", argument " + std::to_string(i));
      if (args[i].role != GpuArg::in) results[i] = wide(storage[i]->host_view());
    }
    return results;
  }

  /// The same numbers as contiguous f64.
  static HostTensor wide(const Tensor& x) {
    Shape shape;
    for (int i = 0; i < x.rank(); ++i) shape.push_back(x.dim(i));
    HostTensor y = host_tensor(DType::f64, shape);
    int64_t n = 0;
    for_elements(x, [&](int64_t at) { y.view.as<double>()[n++] = get(x, at); });
    return y;
  }

  std::unique_ptr<Device> cpu_ = open_cpu_device();
  std::unique_ptr<Device> gpu_;
};

}  // namespace fluxlora::testing
