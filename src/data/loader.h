// SPDX-License-Identifier: Apache-2.0
// The order in which examples are trained: a pure function of seed and step, so that a resumed run
// needs no saved position.
#pragma once

#include <cstdint>
#include <vector>

#include "data/dataset.h"

namespace fluxlora {

struct LoaderOptions {
  uint64_t seed = 0;
  int64_t batch_size = 1;    ///< examples of a micro-batch
  int64_t accumulation = 1;  ///< micro-batches of a step
  /// How often a caption is replaced by the empty one, in [0, 1], unless the example says it.
  double caption_dropout = 0.0;
};

/// One place of a micro-batch.
struct Pick {
  int64_t example = 0;        ///< index into Dataset::examples
  bool drop_caption = false;  ///< train it with the empty caption
  int64_t caption = 0;        ///< index into Example::captions
  bool mirrored = false;      ///< left and right exchanged

  bool operator==(const Pick&) const = default;
};

/// A shape that micro-batches have, for planning memory.
struct BatchShape {
  Size size;
  int64_t count = 0;  ///< examples in the batch
  auto operator<=>(const BatchShape&) const = default;
};

/// An epoch visits every example `repeats` times, in an order of its own. All examples of a
/// micro-batch have one size; what is left over of a size forms one smaller micro-batch.
/// Micro-batch m of step s (both from 0) is number s * accumulation + m of the endless row of
/// epochs.
class Loader {
 public:
  /// Error (bad_input) for options out of range; at least one example.
  Loader(const std::vector<Example>& examples, const LoaderOptions& options);

  /// The micro-batch: depends on nothing but the arguments of the constructor, step and micro_step.
  std::vector<Pick> batch(int64_t step, int64_t micro_step) const;

  int64_t batches_per_epoch() const;
  /// Examples times repeats.
  int64_t examples_per_epoch() const;
  /// Every shape that occurs, each once, in ascending order.
  std::vector<BatchShape> shapes() const;

 private:
  struct Bucket {
    Size size;
    std::vector<int64_t> entries;  ///< example indices, each `repeats` times
  };

  /// What is drawn for an example.
  struct Traits {
    uint32_t captions;
    bool flip;
    double caption_dropout;
  };

  std::vector<std::vector<int64_t>> epoch(int64_t index) const;

  LoaderOptions options_;
  std::vector<Bucket> buckets_;  ///< by size
  std::vector<Traits> traits_;   ///< by example
};

}  // namespace fluxlora
