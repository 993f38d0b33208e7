// SPDX-License-Identifier: Apache-2.0
#include "export/lora_modules.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "base/file.h"
#include "base/parallel.h"
#include "export/matrices.h"
#include "export/peft_config.h"

namespace fluxlora::exporting {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const std::string& what) {
  throw bad_input(path.string(), what,
                  "give a LoRA for this model; `fluxlora inspect` shows what the file holds");
}

std::string shape_text(const Tensor& tensor) {
  std::vector<int64_t> shape;
  for (int i = 0; i < tensor.rank(); ++i) shape.push_back(tensor.dim(i));
  return fmt::format("({})", fmt::join(shape, ", "));
}

bool is_float(DType dtype) {
  return dtype == DType::f64 || dtype == DType::f32 || dtype == DType::bf16 ||
         dtype == DType::f16 || dtype == DType::f8_e4m3 || dtype == DType::f8_e5m2;
}

bool all_finite(const Tensor& tensor) {
  HostTensor numbers(DType::f64, {tensor.size()});
  convert(DType::f64, numbers.view.data(), tensor.dtype(), tensor.data(), tensor.size());
  const double* begin = numbers.view.as<double>();
  return std::all_of(begin, begin + tensor.size(), [](double x) { return std::isfinite(x); });
}

using Pieces = std::map<Piece, std::string>;  // names of tensors

/// Reads the tensors of modules, with the checks that each of them needs.
class Reader {
 public:
  explicit Reader(const SafetensorsFile& file) : file_(file) {}

  std::map<std::string, Pieces> group() const {
    std::map<std::string, Pieces> modules;
    for (const std::string& key : file_.names()) {
      const auto cut = split_key(key);
      if (!cut) fail(file_.path(), "\"" + key + "\" is no part of a LoRA, DoRA or LoKr");
      if (!modules[cut->stem].emplace(cut->piece, key).second)
        fail(file_.path(), "\"" + key + "\" is there twice under two names");
    }
    if (modules.empty()) fail(file_.path(), "holds no LoRA");
    return modules;
  }

  LoraModule read(const std::string& stem, const Pieces& pieces) const {
    LoraModule module;
    module.name = stem;
    if (pieces.count(Piece::a) || pieces.count(Piece::b))
      read_pair(module, pieces);
    else
      read_kron(module, pieces);
    module.alpha = static_cast<double>(module.rank);
    const auto magnitude = pieces.find(Piece::magnitude);
    if (magnitude != pieces.end()) read_magnitude(module, magnitude->second);
    const auto alpha = pieces.find(Piece::alpha);
    if (alpha != pieces.end()) read_alpha(module, alpha->second);
    return module;
  }

 private:
  HostTensor number_tensor(const std::string& key) const {
    const SafetensorsFile::Entry& entry = file_.entry(key);
    if (!is_float(entry.dtype))
      fail(file_.path(), "\"" + key + "\" does not hold floating-point numbers");
    // Eight bits fit into bf16 exactly.
    const bool small = dtype_size(entry.dtype) == 1;
    HostTensor tensor = file_.read(key, small ? DType::bf16 : entry.dtype);
    if (tensor.view.size() == 0) fail(file_.path(), "\"" + key + "\" is empty");
    if (!all_finite(tensor.view))
      fail(file_.path(), "\"" + key + "\" holds numbers that are not finite");
    return tensor;
  }

  /// A 1x1 convolution counts as a matrix.
  HostTensor matrix(const std::string& key) const {
    HostTensor tensor = number_tensor(key);
    const Tensor view = tensor.view;
    const bool flat =
        view.rank() == 2 || (view.rank() == 4 && view.dim(2) == 1 && view.dim(3) == 1);
    if (!flat) fail(file_.path(), "\"" + key + "\" is " + shape_text(view) + ", not a matrix");
    tensor.view = view.reshaped({view.dim(0), view.dim(1)});
    return tensor;
  }

  void read_pair(LoraModule& module, const Pieces& pieces) const {
    const auto a = pieces.find(Piece::a), b = pieces.find(Piece::b);
    if (a == pieces.end() || b == pieces.end())
      fail(file_.path(), fmt::format("has \"{}\" and no other half of the pair",
                                     (a == pieces.end() ? b : a)->second));
    for (const auto& [piece, key] : pieces)
      if (piece >= Piece::w1) fail(file_.path(), "\"" + key + "\" stands beside a LoRA's pair");
    module.A = matrix(a->second);
    module.B = matrix(b->second);
    if (module.A.view.dim(0) != module.B.view.dim(1))
      fail(file_.path(),
           fmt::format("\"{}\" is {} and \"{}\" {}, which do not fit", a->second,
                       shape_text(module.A.view), b->second, shape_text(module.B.view)));
    module.rank = module.A.view.dim(0);
    module.in = module.A.view.dim(1);
    module.rows = module.B.view.dim(0);
  }

  void read_kron(LoraModule& module, const Pieces& pieces) const {
    static const std::tuple<Piece, const char*> kParts[] = {
        {Piece::w1, "w1"}, {Piece::w1_a, "w1_a"}, {Piece::w1_b, "w1_b"},
        {Piece::w2, "w2"}, {Piece::w2_a, "w2_a"}, {Piece::w2_b, "w2_b"}};
    for (const auto& [piece, name] : kParts)
      if (const auto found = pieces.find(piece); found != pieces.end())
        module.kron.emplace(name, matrix(found->second));
    if (module.kron.empty())
      fail(file_.path(), "\"" + pieces.begin()->second + "\" stands alone, without its matrices");
    module.rows = module.in = 1;
    for (const char* side : {"w1", "w2"}) add_factor(module, side);
  }

  /// The sizes of w1 or w2, whole or as a product, multiply those of the layer.
  void add_factor(LoraModule& module, const std::string& side) const {
    const auto whole = module.kron.find(side);
    const auto a = module.kron.find(side + "_a"), b = module.kron.find(side + "_b");
    const auto none = module.kron.end();
    const bool product = a != none && b != none;
    if ((whole == none) != product || (whole != none && (a != none || b != none)))
      fail(file_.path(), fmt::format("\"{}\" has neither lokr_{} nor both its factors, or too many",
                                     module.name, side));
    if (product && a->second.view.dim(1) != b->second.view.dim(0))
      fail(file_.path(),
           fmt::format("the factors of \"{}.lokr_{}\" do not fit", module.name, side));
    if (product) module.rank = b->second.view.dim(0);
    module.rows *= (product ? a : whole)->second.view.dim(0);
    module.in *= (product ? b : whole)->second.view.dim(1);
  }

  void read_magnitude(LoraModule& module, const std::string& key) const {
    module.magnitude = number_tensor(key);
    Tensor& view = module.magnitude.view;
    const bool vector = view.rank() == 1 || (view.rank() == 2 && view.dim(1) == 1);
    if (module.is_lokr() || !vector || view.size() != module.rows)
      fail(file_.path(),
           fmt::format("\"{}\" is {} where ({}) is expected", key, shape_text(view), module.rows));
    view = view.reshaped({view.size()});
  }

  void read_alpha(LoraModule& module, const std::string& key) const {
    const HostTensor tensor = number_tensor(key);
    if (tensor.view.size() != 1) fail(file_.path(), "\"" + key + "\" is not one number");
    module.alpha_dtype = tensor.view.dtype();
    convert(DType::f64, &module.alpha, tensor.view.dtype(), tensor.view.data(), 1);
    if (module.alpha == 0) fail(file_.path(), "\"" + key + "\" is 0: the layer would do nothing");
  }

  const SafetensorsFile& file_;
};

/// D as one module shows it: FLUX.1's own sizes are multiples of 3072 where they depend on D.
int64_t width_shown(const LoraModule& module) {
  static const flux::Config dev;
  const int64_t standard = module.place.layer.in;
  return standard % dev.D() == 0 ? module.in / (standard / dev.D()) : module.rows;
}

/// The transformer's sizes: D as most modules have it, the rest where a module shows it.
flux::Config sizes_of(const std::vector<LoraModule>& modules) {
  flux::Config sizes;
  std::map<int64_t, int> votes;
  for (const LoraModule& module : modules) {
    if (module.place.network != Network::transformer) continue;
    ++votes[width_shown(module)];
    const std::string& layer = module.place.layer.bfl;
    if (layer == "img_in") sizes.in_channels = module.in;
    if (layer == "final_layer.linear") sizes.in_channels = module.rows;
    if (layer == "txt_in") sizes.context_in = module.in;
    if (layer == "vector_in.in_layer") sizes.vec_in = module.in;
  }
  int most = 0;
  for (const auto& [width, count] : votes) {
    if (count <= most) continue;
    most = count;
    sizes.H = 1;
    sizes.K = width;
  }
  return sizes;
}

/// Gives the module its place in a transformer of `names`' sizes, and its rows BFL's order.
void settle(LoraModule& module, const LoraNames& names, const std::filesystem::path& path) {
  module.place = *names.find(module.name);
  if (module.place.network != Network::transformer) return;
  const int64_t rows = module.place.rows(), in = module.place.layer.in;
  if (module.rows != rows || module.in != in)
    fail(path, fmt::format("\"{}\" changes a weight of ({}, {}) where ({}, {}) is expected",
                           module.name, module.rows, module.in, rows, in));
  if (!module.place.swapped) return;
  if (module.is_lokr())
    fail(path, "\"" + module.name + "\" is a LoKr of a layer whose halves must be exchanged");
  swap_halves(module.B.view);
  if (module.is_dora()) swap_halves(module.magnitude.view);
}

const char* component(Network network) {
  return network == Network::transformer ? "transformer"
         : network == Network::clip      ? "text_encoder"
                                         : "text_encoder_2";
}

/// Sorts into the model's order and refuses two modules for the same rows.
void sort(std::vector<LoraModule>& modules, const std::filesystem::path& path) {
  const auto block = [](const LoraModule& m) -> int64_t {
    const std::string& name = m.place.layer.bfl;
    const size_t digit = name.find_first_of("0123456789");
    return digit == std::string::npos ? 0 : std::stoll(name.substr(digit));
  };
  const auto kind = [](const LoraModule& m) {
    const std::string& name = m.place.layer.bfl;
    return name.starts_with("double_blocks.")   ? 1
           : name.starts_with("single_blocks.") ? 2
           : name.starts_with("final_layer.")   ? 3
                                                : 0;
  };
  const auto key = [&](const LoraModule& m) {
    return std::tuple(m.place.network, kind(m), block(m), std::string_view(m.place.layer.bfl),
                      m.place.first);
  };
  std::sort(modules.begin(), modules.end(),
            [&](const LoraModule& x, const LoraModule& y) { return key(x) < key(y); });
  for (size_t i = 1; i < modules.size(); ++i) {
    const LoraModule &x = modules[i - 1], &y = modules[i];
    if (x.place.network == y.place.network && x.place.layer.bfl == y.place.layer.bfl &&
        x.place.first + x.place.count > y.place.first)
      fail(path, fmt::format("\"{}\" and \"{}\" change the same rows", x.name, y.name));
  }
}

HostTensor as_f32(const Tensor& source) {
  HostTensor result(DType::f32, {source.dim(0), source.dim(1)});
  convert(DType::f32, result.view.data(), source.dtype(), source.data(), source.size());
  return result;
}

/// f32 of LoKr's w1 or w2: a matrix, or the product of its two factors.
HostTensor kron_side(const LoraModule& module, const std::string& side) {
  const auto whole = module.kron.find(side);
  if (whole != module.kron.end()) return as_f32(whole->second.view);
  const HostTensor a = as_f32(module.kron.at(side + "_a").view);
  const HostTensor b = as_f32(module.kron.at(side + "_b").view);
  HostTensor product(DType::f32, {a.view.dim(0), b.view.dim(1)});
  multiply(product.view, a.view, b.view, 1);
  return product;
}

/// out = scale w1 ⊗ w2: out[i c + j, k d + l] = w1[i, k] w2[j, l].
void kronecker(const Tensor& out, const Tensor& w1, const Tensor& w2, float scale) {
  const int64_t columns1 = w1.dim(1), rows2 = w2.dim(0), columns2 = w2.dim(1);
  parallel_for(w1.dim(0), 1, [&](int64_t first, int64_t last) {
    float* next = out.as<float>() + first * rows2 * columns1 * columns2;
    for (int64_t i = first; i < last; ++i)
      for (int64_t j = 0; j < rows2; ++j)
        for (int64_t k = 0; k < columns1; ++k) {
          const float factor = scale * w1.as<float>()[i * columns1 + k];
          const float* row = w2.as<float>() + j * columns2;
          for (int64_t l = 0; l < columns2; ++l) *next++ = factor * row[l];
        }
  });
}

}  // namespace

HostTensor LoraModule::change() const {
  HostTensor result(DType::f32, {rows, in});
  const auto s = static_cast<float>(scale());
  if (is_lokr())
    kronecker(result.view, kron_side(*this, "w1").view, kron_side(*this, "w2").view, s);
  else
    multiply(result.view, as_f32(B.view).view, as_f32(A.view).view, s);
  return result;
}

std::filesystem::path lora_file_of(const std::filesystem::path& path) {
  if (!folder_exists(path)) return path;
  for (const char* stem : {"adapter_model", "pytorch_lora_weights", "lora"})
    if (const auto file = path / (std::string(stem) + ".safetensors"); file_exists(file))
      return file;
  throw bad_input(path.string(),
                  "holds no adapter_model, pytorch_lora_weights or lora .safetensors",
                  "give the file of the LoRA itself");
}

LoraModules read_lora_modules(const std::filesystem::path& path) {
  const SafetensorsFile file(lora_file_of(path));
  const Reader reader(file);
  const PeftConfig peft(file.path(), file.metadata());
  LoraModules result{file.path(), file.metadata(), {}, {}};
  const LoraNames standard{flux::Config{}};
  for (const auto& [stem, pieces] : reader.group()) {
    const auto place = standard.find(stem);
    if (!place) fail(file.path(), "\"" + pieces.begin()->second + "\" fits no layer of FLUX.1");
    LoraModule module = reader.read(stem, pieces);
    module.place = *place;
    if (!module.alpha_dtype && !module.is_lokr())
      module.alpha = peft.alpha(component(place->network), place->layer.parts[place->first].module,
                                module.rank)
                         .value_or(module.alpha);
    result.modules.push_back(std::move(module));
  }
  result.sizes = sizes_of(result.modules);
  const LoraNames names(result.sizes);
  for (LoraModule& module : result.modules) settle(module, names, file.path());
  sort(result.modules, file.path());
  return result;
}

void swap_halves(const Tensor& rows) {
  const int64_t half = rows.bytes() / 2;
  CHECK(rows.contiguous() && rows.dim(0) % 2 == 0, "swap_halves: " + rows.describe());
  auto* bytes = static_cast<std::byte*>(rows.data());
  std::swap_ranges(bytes, bytes + half, bytes + half);
}

}  // namespace fluxlora::exporting
