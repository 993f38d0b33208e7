// SPDX-License-Identifier: Apache-2.0
// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011):
// counter-based random numbers. The same (seed, stream, counter) gives the same integers on every
// machine, so a resumed run needs no saved generator state, only its step number.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <utility>
#include <vector>

namespace fluxlora {

/// What a draw is for. Part of the counter: two purposes never share numbers.
enum class Draw : uint32_t {
  noise = 1,        ///< the noise of a training example
  timestep = 2,     ///< its flow time
  order = 3,        ///< the order of pictures in an epoch
  dropout = 4,      ///< whether a caption is dropped
  init = 5,         ///< the start of an adapter
  sample = 6,       ///< the first latents of a sample
  caption = 7,      ///< the forms of a caption
  augment = 8,      ///< which of its captions an example has, and whether it is mirrored
  adapter = 9,      ///< what an adapter's dropout sets aside
  held_out = 20,    ///< which pictures validate
  validation = 21,  ///< their noise
  drift = 22,       ///< the noise that drift is measured from
};

/// The second word of the counter for the dropout of a layer's adapters.
constexpr uint32_t adapter_draw(uint32_t layer) {
  return static_cast<uint32_t>(Draw::adapter) + 256 * layer;
}

class Philox {
 public:
  using Block = std::array<uint32_t, 4>;

  /// A stream of numbers named by (seed, purpose, a, b): say (seed, noise, step, picture).
  Philox(uint64_t seed, Draw purpose, uint32_t a = 0, uint32_t b = 0)
      : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
        counter_{0, static_cast<uint32_t>(purpose), a, b} {}

  /// The next 32 random bits.
  uint32_t bits() {
    if (left_ == 0) {
      block_ = block(counter_, key_);
      ++counter_[0];
      left_ = 4;
    }
    return block_[4 - left_--];
  }

  /// Uniform in [0, 1), 53 bits.
  double uniform() {
    const uint64_t high = bits() >> 5, low = bits() >> 6;
    return static_cast<double>(high * 67108864 + low) / 9007199254740992.0;
  }

  /// Standard normal by Box and Muller.
  double normal() {
    if (has_spare_) {
      has_spare_ = false;
      return spare_;
    }
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    const double angle = 2 * std::numbers::pi * uniform();
    spare_ = radius * std::sin(angle);
    has_spare_ = true;
    return radius * std::cos(angle);
  }

  /// Uniform integer in [0, count), count > 0; the bias below 2^-32 does not matter here.
  uint32_t below(uint32_t count) {
    return static_cast<uint32_t>((static_cast<uint64_t>(bits()) * count) >> 32);
  }

  /// Fisher and Yates.
  template <typename T>
  void shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i)
      std::swap(items[i - 1], items[below(static_cast<uint32_t>(i))]);
  }

  /// The four words of counter c under key k, ten rounds: what all the above are made of.
  static constexpr Block block(Block c, std::array<uint32_t, 2> k) {
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = 0xD2511F53ull * c[0], p1 = 0xCD9E8D57ull * c[2];
      c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(p1),
           static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(p0)};
      k[0] += 0x9E3779B9u;
      k[1] += 0xBB67AE85u;
    }
    return c;
  }

 private:
  std::array<uint32_t, 2> key_;
  Block counter_;
  Block block_{};
  int left_ = 0;
  bool has_spare_ = false;
  double spare_ = 0;
};

}  // namespace fluxlora
