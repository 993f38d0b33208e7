// SPDX-License-Identifier: Apache-2.0
#include "tensor/tensor.h"

#include "base/error.h"

namespace fluxlora {

Tensor::Tensor(DType dtype, std::initializer_list<int64_t> shape, void* data)
    : Tensor(dtype, shape.begin(), static_cast<int>(shape.size()), data) {}

Tensor::Tensor(DType dtype, const int64_t* shape, int rank, void* data)
    : dtype_(dtype), rank_(rank), data_(data) {
  CHECK(rank >= 1 && rank <= kMaxRank, "a tensor has one to four dimensions");
  int64_t stride = 1;
  for (int i = rank - 1; i >= 0; --i) {
    shape_[static_cast<size_t>(i)] = shape[i];
    stride_[static_cast<size_t>(i)] = stride;
    stride *= shape[i];
  }
}

int64_t Tensor::size() const {
  if (!data_ && rank_ == 0) return 0;
  int64_t size = 1;
  for (int i = 0; i < rank_; ++i) size *= dim(i);
  return size;
}

bool Tensor::contiguous() const {
  int64_t expected = 1;
  for (int i = rank_ - 1; i >= 0; --i) {
    if (dim(i) != 1 && stride(i) != expected) return false;
    expected *= dim(i);
  }
  return true;
}

bool Tensor::same_shape(const Tensor& other) const {
  return rank_ == other.rank_ && shape_ == other.shape_;
}

Tensor Tensor::slice(int axis, int64_t first, int64_t count) const {
  CHECK(axis >= 0 && axis < rank_ && first >= 0 && count >= 0 && first + count <= dim(axis),
        "slice outside of " + describe());
  Tensor view = *this;
  view.shape_[static_cast<size_t>(axis)] = count;
  view.data_ = static_cast<char*>(data_) + first * stride(axis) * dtype_size(dtype_);
  return view;
}

Tensor Tensor::item(int64_t i) const {
  CHECK(rank_ >= 2, "item of " + describe());
  const Tensor one = slice(0, i, 1);
  Tensor view = one;
  view.rank_ = rank_ - 1;
  for (int axis = 0; axis < kMaxRank; ++axis) {
    const bool inside = axis + 1 < rank_;
    view.shape_[static_cast<size_t>(axis)] = inside ? one.dim(axis + 1) : 0;
    view.stride_[static_cast<size_t>(axis)] = inside ? one.stride(axis + 1) : 0;
  }
  return view;
}

Tensor Tensor::reshaped(std::initializer_list<int64_t> shape) const {
  CHECK(contiguous(), "reshape of a strided view: " + describe());
  Tensor view(dtype_, shape, data_);
  CHECK(view.size() == size(), "reshape of " + describe() + " to " + view.describe());
  return view;
}

bool Tensor::rows_are_uniform() const {
  for (int i = 0; i + 2 < rank_; ++i)
    if (dim(i) != 1 && stride(i) != stride(i + 1) * dim(i + 1)) return false;
  return true;
}

Tensor Tensor::flat_rows() const {
  CHECK(rank_ >= 2 && rows_are_uniform(), "flat_rows of " + describe());
  Tensor view = *this;
  view.rank_ = 2;
  view.shape_ = {size() / (dim(-1) ? dim(-1) : 1), dim(-1), 0, 0};
  view.stride_ = {stride(-2), stride(-1), 0, 0};
  return view;
}

std::string Tensor::describe() const {
  std::string text{safetensors_name(dtype_)};
  text += " (";
  for (int i = 0; i < rank_; ++i) text += (i ? ", " : "") + std::to_string(dim(i));
  return text + ")";
}

}  // namespace fluxlora
