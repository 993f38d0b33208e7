// SPDX-License-Identifier: Apache-2.0
#include "lora/adapter.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/philox.h"
#include "lora/row_squares.h"

namespace fluxlora::lora {
namespace {

constexpr int64_t kAlign = 16;  // elements: the start of every matrix suits the widest loads

int64_t aligned(int64_t count) {
  return (count + kAlign - 1) / kAlign * kAlign;
}

Tensor matrix(const Tensor& flat, int64_t offset, int64_t rows, int64_t columns) {
  return flat.slice(0, offset, rows * columns).reshaped({rows, columns});
}

void put(const Tensor& host, int64_t i, double value) {
  if (host.dtype() == DType::f64)
    host.as<double>()[i] = value;
  else
    host.as<float>()[i] = static_cast<float>(value);
}

KronShape shape_of(const AdapterSpec& s) {
  return kron_shape(s.rows, s.in, s.factor, s.rank);
}

/// The rank that the layer knows.
int64_t width(const AdapterSpec& s) {
  return s.factor ? shape_of(s).lora_rank() : s.rank;
}

LoraStack& stack_of(AdaptedLinear& layer, Beside beside) {
  return beside == Beside::own         ? layer
         : beside == Beside::assistant ? layer.assistant
                                       : layer.start;
}

}  // namespace

AdapterSet::AdapterSet(Device& device, const Networks& networks, std::vector<AdapterSpec> specs,
                       DType act, bool trains, Beside beside)
    : device_(device), networks_(networks), specs_(std::move(specs)), act_(act), beside_(beside) {
  CHECK(!trains || beside == Beside::own, "only own adapters train");
  for (size_t i = 0; i < specs_.size(); ++i) by_layer_[specs_[i].bfl].push_back(i);
  lay_out();
  allocate(trains);
  allocate_dora();
  set_multiplier(1);
  stop_dropout();
  attach();
}

/// Calls f(layer name, layer, indices of its specs) for the layers that carry adapters.
template <typename F>
void AdapterSet::visit_own(F&& f) {
  networks_.visit_linears([&](const std::string& bfl, AdaptedLinear& layer) {
    const auto found = by_layer_.find(bfl);
    if (found != by_layer_.end()) f(bfl, layer, found->second);
  });
}

/// By layer: the A of all its adapters stacked, then each B, then magnitudes. The order of layers
/// is the model's. LoKr's factors lie apart from the A and B that are made of them.
void AdapterSet::lay_out() {
  const bool kron = !specs_.empty() && specs_.front().factor > 0;
  int64_t size = 0, factors = 0;
  wide_at_.resize(specs_.size());
  visit_own([&](const std::string&, AdaptedLinear&, const std::vector<size_t>& own) {
    const auto add = [&](int64_t& end, size_t i, Role role, int64_t rows, int64_t columns) {
      segments_.push_back({i, role, end, rows, columns});
      end += role == Role::a ? rows * columns : aligned(rows * columns);
    };
    for (const size_t i : own) {
      wide_at_[i].a = size;
      const int64_t rank = width(specs_[i]);
      CHECK(kron == (specs_[i].factor > 0), "LoKr beside others");
      if (kron)
        size += rank * specs_[i].in;
      else
        add(size, i, Role::a, rank, specs_[i].in);
    }
    size = aligned(size);
    for (const size_t i : own) {
      wide_at_[i].b = size;
      const AdapterSpec& s = specs_[i];
      if (!kron) {
        add(size, i, Role::b, s.rows, s.rank);
        continue;
      }
      const KronShape k = shape_of(s);
      size += aligned(s.rows * k.lora_rank());
      add(factors, i, Role::w1, k.a, k.b);
      add(factors, i, Role::w2_a, k.c, k.R);
      add(factors, i, Role::w2_b, k.R, k.d);
    }
    for (const size_t i : own)
      if (specs_[i].dora) add(size, i, Role::magnitude, specs_[i].rows, 1);
  });
  const DType own = act_ == DType::f64 ? DType::f64 : DType::f32;
  wide_ = Tensor(own, {size}, nullptr);
  params_ = Tensor(own, {kron ? factors : size}, nullptr);
}

void AdapterSet::allocate(bool trains) {
  const DType own = params_.dtype();
  const int64_t size = params_.size(), wide = wide_.size();
  const bool kron = size != wide;
  const int64_t sets = trains ? 2 : 1, copy = act_ == own ? 0 : wide * dtype_size(act_);
  memory_ = device_.allocate((size + (kron ? wide : 0)) * dtype_size(own) * sets + copy +
                             static_cast<int64_t>(sizeof(float) + 5 * sizeof(int32_t)));
  char* next = static_cast<char*>(memory_.data());
  const auto take = [&](DType dtype, int64_t count) {
    const Tensor flat(dtype, {count}, next);
    next += flat.bytes();
    device_.ops().fill(flat, 0);
    return flat;
  };
  params_ = take(own, size);
  if (trains) grads_ = take(own, size);
  wide_ = kron ? take(own, wide) : params_;
  wide_grads_ = kron && trains ? take(own, wide) : grads_;
  active_ = copy ? take(act_, wide) : wide_;
  multiplier_ = Tensor(DType::f32, {1}, next);
  draw_ = Tensor(DType::i32, {5}, next + sizeof(float));
}

void AdapterSet::allocate_dora() {
  int64_t rows = 0, b = 0, cross = 0, gram = 0, second = 0;
  visit_own([&](const std::string&, AdaptedLinear& layer, const std::vector<size_t>& own) {
    int64_t ranks = 0;
    for (const size_t i : own) {
      const AdapterSpec& s = specs_[i];
      ranks += s.rank;
      if (!s.dora) continue;
      gram = std::max(gram, s.rank * s.rank);
      second = std::max(second, s.rows * s.rank);
    }
    if (specs_[own.front()].dora) cross = std::max(cross, ranks * layer.out());
  });
  for (const AdapterSpec& s : specs_) {
    rows += s.dora ? aligned(s.rows) : 0;
    b += s.dora ? aligned(s.rows * s.rank) : 0;
  }
  if (rows == 0) return;
  const DType own = params_.dtype();
  dora_memory_ = device_.allocate(2 * rows * dtype_size(own) +
                                  (b + aligned(cross) + aligned(gram) + second) * dtype_size(act_));
  char* next = static_cast<char*>(dora_memory_.data());
  const auto take = [&](DType dtype, int64_t count) {
    const Tensor flat(dtype, {count}, next);
    next += aligned(count) * dtype_size(dtype);
    return flat;
  };
  square_ = take(own, rows);
  gain_ = take(own, rows);
  scaled_b_ = take(act_, b);
  cross_ = take(act_, cross);
  gram_ = take(act_, gram);
  second_ = take(act_, second);
}

template <typename F>
void AdapterSet::visit_krons(F&& f) {
  if (wide_.data() == params_.data()) return;
  for (size_t n = 0; n < segments_.size(); n += 3) {  // w1, w2_a, w2_b
    const AdapterSpec& s = specs_[segments_[n].spec];
    const Offsets at = wide_at_[segments_[n].spec];
    const auto view = [&](const Tensor& flat, size_t i) {
      const Segment& segment = segments_[n + i];
      return flat ? matrix(flat, segment.offset, segment.rows, segment.columns) : Tensor{};
    };
    const auto wide = [&](const Tensor& flat, int64_t offset, int64_t rows, int64_t columns) {
      return flat ? matrix(flat, offset, rows, columns) : Tensor{};
    };
    f(wide(wide_, at.a, width(s), s.in), wide(wide_, at.b, s.rows, width(s)),
      wide(wide_grads_, at.a, width(s), s.in), wide(wide_grads_, at.b, s.rows, width(s)),
      KronFactors{view(params_, 0), view(params_, 1), view(params_, 2)},
      KronFactors{view(grads_, 0), view(grads_, 1), view(grads_, 2)});
  }
}

void AdapterSet::refresh() {
  Ops& op = device_.ops();
  visit_krons([&](const Tensor& A, const Tensor& B, const Tensor&, const Tensor&,
                  const KronFactors& w, const KronFactors&) { expand(op, A, B, w); });
  if (active_.data() != wide_.data()) op.cast(active_, wide_);
}

void AdapterSet::clear_gradients() {
  device_.ops().fill(wide_grads_, 0);
}

void AdapterSet::finish_gradients() {
  visit_krons([&](const Tensor&, const Tensor&, const Tensor& dA, const Tensor& dB,
                  const KronFactors& w,
                  const KronFactors& d) { contract(device_.ops(), d, dA, dB, w); });
}

DoraRows AdapterSet::dora_rows(size_t spec, const Tensor& magnitude, const Tensor& d_magnitude) {
  int64_t row = 0, b = 0;
  for (size_t i = 0; i < spec; ++i) {
    row += specs_[i].dora ? aligned(specs_[i].rows) : 0;
    b += specs_[i].dora ? aligned(specs_[i].rows * specs_[i].rank) : 0;
  }
  const AdapterSpec& s = specs_[spec];
  return {magnitude, d_magnitude, square_.slice(0, row, s.rows), gain_.slice(0, row, s.rows),
          matrix(scaled_b_, b, s.rows, s.rank)};
}

void AdapterSet::attach() {
  std::vector<const Segment*> magnitude(specs_.size());
  for (const Segment& segment : segments_)
    if (segment.role == Role::magnitude) magnitude[segment.spec] = &segment;
  const auto vector = [](const Tensor& flat, const Segment& segment) {
    return flat ? flat.slice(0, segment.offset, segment.rows) : Tensor{};
  };
  visit_own([&](const std::string& bfl, AdaptedLinear& layer, const std::vector<size_t>& own) {
    LoraStack& stack = stack_of(layer, beside_);
    CHECK(stack.adapters.empty(), "a second AdapterSet on " + bfl);
    int64_t rank0 = 0;
    for (const size_t i : own) {
      const AdapterSpec& s = specs_[i];
      const int64_t rank = width(s);
      LoraSlice slice{s.row0, s.rows, rank0, rank, s.scale(), {}, {}, {}};
      slice.B = matrix(active_, wide_at_[i].b, s.rows, rank);
      if (grads_) slice.dB = matrix(wide_grads_, wide_at_[i].b, s.rows, rank);
      if (s.dora)
        slice.dora = dora_rows(i, vector(params_, *magnitude[i]), vector(grads_, *magnitude[i]));
      stack.adapters.push_back(slice);
      rank0 += rank;
    }
    const int64_t first = wide_at_[own.front()].a;
    stack.A = matrix(active_, first, rank0, layer.in());
    if (grads_) stack.dA = matrix(wide_grads_, first, rank0, layer.in());
    stack.multiplier = multiplier_;
    stack.cross = cross_;
    stack.gram = gram_;
    stack.second = second_;
  });
}

AdapterSet::~AdapterSet() {
  start_.reset();
  networks_.visit_linears(
      [&](const std::string&, AdaptedLinear& layer) { stack_of(layer, beside_) = LoraStack{}; });
}

int64_t AdapterSet::bytes() const {
  return memory_.bytes() + dora_memory_.bytes() + (start_ ? start_->bytes() : 0);
}

void AdapterSet::measure_rows(flux::LoadedWeights& weights) {
  measured_ = true;
  if (!square_) return;
  weights.visit_resident([&](const std::string& bfl, AdaptedLinear& layer) {
    const auto found = by_layer_.find(bfl);
    if (found == by_layer_.end()) return;
    const HostTensor squares = row_squares(device_, layer.weight, act_);
    for (const LoraSlice& slice : layer.adapters) {
      if (!slice.dora) continue;
      const HostTensor host(params_.dtype(), {slice.rows});
      for (int64_t i = 0; i < slice.rows; ++i)
        put(host.view, i, squares.view.as<double>()[slice.row0 + i]);
      device_.upload(slice.dora.square, host.view.data());
    }
  });
}

void AdapterSet::initialise(uint64_t seed, const std::string& init) {
  CHECK(measured_ || !square_, "DoRA's rows are measured first");
  device_.ops().fill(params_, 0);
  for (const Segment& segment : segments_) {
    // LoKr begins with W2b at 0, as LyCORIS does.
    if (segment.role != Role::a && segment.role != Role::w1 && segment.role != Role::w2_a) continue;
    const uint32_t part = segment.role == Role::w2_a ? 1u << 20 : 0;
    Philox random(seed, Draw::init, static_cast<uint32_t>(segment.spec) + part);
    HostTensor host(params_.dtype(), {segment.rows, segment.columns});
    const double bound = 1 / std::sqrt(static_cast<double>(segment.columns));
    const double deviation = 1 / static_cast<double>(segment.rows);
    for (int64_t i = 0; i < host.view.size(); ++i)
      put(host.view, i,
          init == "gaussian" ? deviation * random.normal() : bound * (2 * random.uniform() - 1));
    upload(segment, host.view);
  }
  visit_own([&](const std::string&, AdaptedLinear& layer, const std::vector<size_t>&) {
    for (const LoraSlice& slice : stack_of(layer, beside_).adapters) {
      if (!slice.dora) continue;
      const HostTensor host(params_.dtype(), {slice.rows});
      device_.download(host.view.data(), slice.dora.square);
      for (int64_t i = 0; i < slice.rows; ++i)
        put(host.view, i,
            std::sqrt(host.view.dtype() == DType::f64 ? host.view.as<double>()[i]
                                                      : double{host.view.as<float>()[i]}));
      device_.upload(slice.dora.magnitude, host.view.data());
    }
  });
  refresh();
}

void AdapterSet::subtract_start() {
  CHECK(!start_ && !square_ && wide_.data() == params_.data() && beside_ == Beside::own,
        "one start, of plain adapters");
  std::vector<AdapterSpec> negative = specs_;
  for (AdapterSpec& spec : negative) spec.alpha = -spec.alpha;
  start_ = std::make_unique<AdapterSet>(device_, networks_, std::move(negative), act_,
                                        /*trains=*/false, Beside::start);
  device_.ops().copy(start_->params_, params_);
  start_->refresh();
}

void AdapterSet::set_multiplier(float m) {
  device_.upload(multiplier_, &m);
  if (start_) start_->set_multiplier(m);
}

void AdapterSet::use_dropout(const Options& options) {
  uint32_t number = 0;
  visit_own([&](const std::string&, AdaptedLinear& layer, const std::vector<size_t>&) {
    LoraStack& stack = stack_of(layer, beside_);
    stack.dropout = {options.dropout, number++, draw_};
    stack.drops_input = options.dropout_of == "input";
  });
}

void AdapterSet::draw_dropout(uint64_t seed, int64_t step, int64_t micro_step) {
  const int32_t draw[5] = {1, static_cast<int32_t>(seed), static_cast<int32_t>(seed >> 32),
                           static_cast<int32_t>(step), static_cast<int32_t>(micro_step)};
  device_.upload(draw_, draw);
}

void AdapterSet::stop_dropout() {
  const int32_t draw[5] = {};
  device_.upload(draw_, draw);
}

HostTensor AdapterSet::download(const Segment& segment) const {
  HostTensor host(params_.dtype(), {segment.rows, segment.columns});
  device_.download(host.view.data(),
                   matrix(params_, segment.offset, segment.rows, segment.columns));
  return host;
}

void AdapterSet::upload(const Segment& segment, const Tensor& host) {
  CHECK(host.dtype() == params_.dtype() && host.size() == segment.rows * segment.columns,
        "AdapterSet::upload: " + host.describe());
  const Tensor own = matrix(params_, segment.offset, segment.rows, segment.columns);
  device_.upload(own, host.data());
  if (wide_.data() == params_.data() && active_.data() != params_.data())
    device_.ops().cast(matrix(active_, segment.offset, segment.rows, segment.columns), own);
}

}  // namespace fluxlora::lora
