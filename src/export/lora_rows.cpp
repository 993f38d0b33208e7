// SPDX-License-Identifier: Apache-2.0
#include "export/lora_rows.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include <fmt/format.h>

#include "base/error.h"

namespace fluxlora::exporting {
namespace {

[[noreturn]] void inexact(const LoraModules& file, const LoraModule& module,
                          const std::string& what) {
  throw bad_input(file.path.string(), fmt::format("\"{}\" is {}", module.name, what),
                  "make it an ordinary LoRA first: fluxlora resize FILE --rank N --output OUT");
}

HostTensor copy_of(const Tensor& source) {
  HostTensor result = source.rank() == 1
                          ? HostTensor(source.dtype(), {source.dim(0)})
                          : HostTensor(source.dtype(), {source.dim(0), source.dim(1)});
  std::memcpy(result.view.data(), source.data(), static_cast<size_t>(source.bytes()));
  return result;
}

HostTensor zeros(DType dtype, int64_t rows, int64_t columns) {
  HostTensor result(dtype, {rows, columns});
  std::memset(result.view.data(), 0, static_cast<size_t>(result.view.bytes()));
  return result;
}

/// Copies `source` into `target` with its corner at (row0, column0), changing the type if need be.
void place_block(const Tensor& target, int64_t row0, int64_t column0, const Tensor& source,
                 double scale) {
  const int64_t columns = source.dim(1), size = dtype_size(target.dtype());
  for (int64_t row = 0; row < source.dim(0); ++row) {
    auto* to =
        static_cast<std::byte*>(target.data()) + ((row0 + row) * target.dim(1) + column0) * size;
    const auto* from =
        static_cast<const std::byte*>(source.data()) + row * columns * dtype_size(source.dtype());
    if (scale == 1 && target.dtype() == source.dtype())
      std::memcpy(to, from, static_cast<size_t>(columns * size));
    else
      convert(target.dtype(), to, source.dtype(), from, columns, scale);
  }
}

bool is_zero(const Tensor& matrix) {
  HostTensor numbers(DType::f64, {matrix.size()});
  convert(DType::f64, numbers.view.data(), matrix.dtype(), matrix.data(), matrix.size());
  const double* begin = numbers.view.as<double>();
  return std::all_of(begin, begin + matrix.size(), [](double x) { return x == 0; });
}

/// A run of B's columns, the rank that one part gets.
struct Range {
  int64_t first = 0, count = 0;
};

/// The parts of a module, and where their rows of B begin.
struct Parts {
  std::vector<flux::DiffusersPart> parts;
  std::vector<int64_t> row0;

  explicit Parts(const Place& place) {
    for (size_t i = place.first; i < place.first + place.count; ++i) {
      parts.push_back(place.layer.parts[i]);
      row0.push_back(parts.back().row0 - place.row0());
    }
  }
  size_t size() const { return parts.size(); }
};

bool zero_outside(const Tensor& b, const Parts& parts, size_t own, Range columns) {
  for (size_t p = 0; p < parts.size(); ++p)
    if (p != own && columns.count > 0 &&
        !is_zero(
            block_of(b, parts.row0[p], parts.parts[p].rows, columns.first, columns.count).view))
      return false;
  return true;
}

/// Which columns of a block-diagonal B belong to which part; nothing when it is not block-diagonal.
/// Equal blocks are looked for first, as diffusers does, then blocks of any width in order.
std::vector<Range> diagonal_blocks(const Tensor& b, const Parts& parts) {
  const int64_t rank = b.dim(1), n = static_cast<int64_t>(parts.size());
  std::vector<Range> ranges(parts.size());
  if (rank % n == 0) {
    bool equal = true;
    for (size_t p = 0; p < parts.size() && equal; ++p) {
      ranges[p] = {static_cast<int64_t>(p) * (rank / n), rank / n};
      equal = zero_outside(b, parts, p, ranges[p]);
    }
    if (equal) return ranges;
  }
  int64_t column = 0;
  for (size_t p = 0; p < parts.size(); ++p) {
    ranges[p] = {column, 0};
    while (column < rank && zero_outside(b, parts, p, {column, 1})) ++column, ++ranges[p].count;
  }
  return column == rank ? ranges : std::vector<Range>{};
}

/// The module of part `p` alone, without matrices.
LoraModule part_of(const LoraModule& whole, size_t p) {
  LoraModule part;
  part.name = whole.name;
  part.place = whole.place;
  part.place.first = whole.place.first + p;
  part.place.count = 1;
  part.rows = part.place.rows();
  part.in = whole.in;
  part.rank = whole.rank;
  part.alpha = whole.alpha;
  part.alpha_dtype = whole.alpha_dtype;
  return part;
}

/// A LoKr splits where its blocks of rows end with the parts.
void split_lokr(const LoraModules& file, const LoraModule& whole, const Parts& parts,
                std::vector<LoraModule>& out) {
  const std::string side = whole.kron.count("w1") ? "w1" : "w1_a";
  const Tensor& w1 = whole.kron.at(side).view;
  const int64_t block = whole.rows / w1.dim(0);
  for (size_t p = 0; p < parts.size(); ++p) {
    const int64_t rows = parts.parts[p].rows;
    if (parts.row0[p] % block != 0 || rows % block != 0)
      inexact(file, whole, "a LoKr whose blocks lie across q, k and v");
    LoraModule part = part_of(whole, p);
    for (const auto& [name, matrix] : whole.kron)
      part.kron[name] = name == side
                            ? block_of(w1, parts.row0[p] / block, rows / block, 0, w1.dim(1))
                            : copy_of(matrix.view);
    out.push_back(std::move(part));
  }
}

void split_lora(const LoraModule& whole, const Parts& parts, std::vector<LoraModule>& out) {
  const Tensor &a = whole.A.view, &b = whole.B.view;
  std::vector<Range> blocks = diagonal_blocks(b, parts);
  // A DoRA's magnitudes must all stay, and a part without columns would lose its own.
  const bool narrow = std::any_of(blocks.begin(), blocks.end(),
                                  [](const Range& range) { return range.count == 0; });
  if (blocks.empty() || (whole.is_dora() && narrow)) blocks.assign(parts.size(), {0, whole.rank});
  const bool any = !is_zero(b);
  for (size_t p = 0; p < parts.size(); ++p) {
    LoraModule part = part_of(whole, p);
    if (blocks[p].count == 0) continue;
    part.rank = blocks[p].count;
    part.alpha = whole.alpha * static_cast<double>(part.rank) / static_cast<double>(whole.rank);
    part.A = block_of(a, blocks[p].first, part.rank, 0, a.dim(1));
    part.B = block_of(b, parts.row0[p], part.rows, blocks[p].first, part.rank);
    if (whole.is_dora()) {
      part.magnitude = HostTensor(whole.magnitude.view.dtype(), {part.rows});
      const Tensor rows = whole.magnitude.view.slice(0, parts.row0[p], part.rows);
      std::memcpy(part.magnitude.view.data(), rows.data(), static_cast<size_t>(rows.bytes()));
    } else if (any && is_zero(part.B.view)) {
      continue;
    }
    out.push_back(std::move(part));
  }
}

bool same_bytes(const Tensor& x, const Tensor& y) {
  return x.dtype() == y.dtype() && x.same_shape(y) &&
         std::memcmp(x.data(), y.data(), static_cast<size_t>(x.bytes())) == 0;
}

DType common_type(const std::vector<const LoraModule*>& parts) {
  const DType first = parts.front()->B.view.dtype();
  for (const LoraModule* part : parts)
    if (part->A.view.dtype() != first || part->B.view.dtype() != first) return DType::f32;
  return first;
}

void join_magnitudes(const LoraModules& file, const std::vector<const LoraModule*>& parts,
                     LoraModule& whole) {
  const bool any = std::any_of(parts.begin(), parts.end(), [](auto* p) { return p->is_dora(); });
  if (!any) return;
  const bool all = std::all_of(parts.begin(), parts.end(), [](auto* p) { return p->is_dora(); });
  if (!all || parts.size() != whole.place.count)
    inexact(file, *parts.front(), "a DoRA of a part of a layer that must become a whole");
  const DType type = parts.front()->magnitude.view.dtype();
  whole.magnitude = HostTensor(type, {whole.rows});
  for (const LoraModule* part : parts) {
    const Tensor rows =
        whole.magnitude.view.slice(0, part->place.row0() - whole.place.row0(), part->rows);
    convert(type, rows.data(), part->magnitude.view.dtype(), part->magnitude.view.data(),
            part->rows);
  }
}

/// `whole` knows its place; the matrices come from its parts.
void join(const LoraModules& file, const std::vector<const LoraModule*>& parts, LoraModule& whole) {
  const LoraModule& first = *parts.front();
  for (const LoraModule* part : parts)
    if (part->is_lokr())
      inexact(file, *part, "a LoKr of a part of a layer that must become a whole");
  const auto all = [&](auto same) {
    return std::all_of(parts.begin(), parts.end(), [&](auto* part) { return same(*part); });
  };
  const bool one_scale = all([&](const LoraModule& p) { return p.scale() == first.scale(); });
  const bool one_a =
      one_scale && all([&](const LoraModule& p) { return same_bytes(p.A.view, first.A.view); });
  whole.rank = one_a ? first.rank : 0;
  if (!one_a)
    for (const LoraModule* part : parts) whole.rank += part->rank;
  const DType type = common_type(parts);
  whole.A = zeros(type, whole.rank, whole.in);
  whole.B = zeros(type, whole.rows, whole.rank);
  int64_t column = 0;
  for (const LoraModule* part : parts) {
    place_block(whole.A.view, column, 0, part->A.view, 1);
    place_block(whole.B.view, part->place.row0() - whole.place.row0(), column, part->B.view,
                one_scale ? 1 : part->scale());
    if (!one_a) column += part->rank;
  }
  whole.alpha = (one_scale ? first.scale() : 1) * static_cast<double>(whole.rank);
  whole.alpha_dtype = first.alpha_dtype;
  join_magnitudes(file, parts, whole);
}

LoraModules fuse_with(const LoraModules& source, bool attention_apart) {
  LoraModules result{source.path, source.metadata, source.sizes, {}};
  // How many parts of a layer the run has that part `first` belongs to.
  const auto run = [&](const Place& place, size_t& first) -> size_t {
    const size_t all = place.layer.parts.size();
    if (!attention_apart || all != 4) return first = 0, all;
    return first == 3 ? 1 : (first = 0, 3);
  };
  for (size_t i = 0; i < source.modules.size();) {
    const LoraModule& module = source.modules[i];
    LoraModule whole;
    whole.name = module.name;
    whole.place = module.place;
    whole.place.count = run(module.place, whole.place.first);
    const size_t end = whole.place.first + whole.place.count;
    std::vector<const LoraModule*> parts;
    for (; i < source.modules.size(); ++i) {
      const Place& place = source.modules[i].place;
      if (place.network != module.place.network || place.layer.bfl != module.place.layer.bfl ||
          place.first >= end)
        break;
      parts.push_back(&source.modules[i]);
    }
    if (parts.back()->place.first + parts.back()->place.count > end)
      inexact(source, *parts.back(), "a LoRA of a whole layer that must be two");
    if (parts.size() == 1 && module.place.count == whole.place.count) {
      result.modules.push_back(copy_of(module));
      continue;
    }
    whole.rows = whole.place.rows();
    whole.in = module.in;
    join(source, parts, whole);
    result.modules.push_back(std::move(whole));
  }
  return result;
}

}  // namespace

HostTensor block_of(const Tensor& matrix, int64_t row0, int64_t rows, int64_t column0,
                    int64_t columns) {
  HostTensor result(matrix.dtype(), {rows, columns});
  const int64_t size = dtype_size(matrix.dtype());
  for (int64_t row = 0; row < rows; ++row)
    std::memcpy(static_cast<std::byte*>(result.view.data()) + row * columns * size,
                static_cast<const std::byte*>(matrix.data()) +
                    ((row0 + row) * matrix.dim(1) + column0) * size,
                static_cast<size_t>(columns * size));
  return result;
}

LoraModule copy_of(const LoraModule& module) {
  LoraModule copy;
  copy.name = module.name;
  copy.place = module.place;
  copy.rows = module.rows;
  copy.in = module.in;
  copy.rank = module.rank;
  copy.alpha = module.alpha;
  copy.alpha_dtype = module.alpha_dtype;
  if (!module.is_lokr()) {
    copy.A = copy_of(module.A.view);
    copy.B = copy_of(module.B.view);
  }
  if (module.is_dora()) copy.magnitude = copy_of(module.magnitude.view);
  for (const auto& [name, matrix] : module.kron) copy.kron[name] = copy_of(matrix.view);
  return copy;
}

LoraModules split(const LoraModules& fused) {
  LoraModules result{fused.path, fused.metadata, fused.sizes, {}};
  for (const LoraModule& module : fused.modules) {
    const Parts parts(module.place);
    if (parts.size() == 1)
      result.modules.push_back(copy_of(module));
    else if (module.is_lokr())
      split_lokr(fused, module, parts, result.modules);
    else
      split_lora(module, parts, result.modules);
  }
  return result;
}

LoraModules fuse(const LoraModules& parts) {
  return fuse_with(parts, /*attention_apart=*/false);
}

LoraModules fuse_attention(const LoraModules& parts) {
  // A whole linear1 is taken apart first, so that proj_mlp stands alone.
  return fuse_with(split(parts), /*attention_apart=*/true);
}

}  // namespace fluxlora::exporting
