// SPDX-License-Identifier: Apache-2.0
#include "eval/verdict.h"

#include <algorithm>

#include <fmt/format.h>

namespace fluxlora::eval {
namespace {

/// The loss at `step` on the straight lines between the points.
double loss_at(std::span<const LossPoint> history, double step) {
  for (size_t i = 1; i < history.size(); ++i) {
    const LossPoint &a = history[i - 1], &b = history[i];
    if (step > static_cast<double>(b.step)) continue;
    const double part = (step - static_cast<double>(a.step)) / static_cast<double>(b.step - a.step);
    return a.loss + part * (b.loss - a.loss);
  }
  return history.back().loss;
}

int rank(const std::string& name) {
  return name == "good" ? 0 : name == "underfit" ? 1 : 2;
}

}  // namespace

double falling_share(std::span<const LossPoint> history, int64_t step) {
  if (history.size() < 2) return 0;
  const auto end = static_cast<double>(step);
  const double last = loss_at(history, end), gained = history.front().loss - last;
  return gained > 0 ? (loss_at(history, 0.8 * end) - last) / gained : 0;
}

Verdict judge(const Measures& m, const Thresholds& t) {
  const bool harm = m.gain < -t.least_gain;
  if (harm || (m.trained_gain >= t.least_gain && m.gap() > t.most_gap))
    return {"overfit",
            fmt::format("{}: training pictures gained {:.0f} %, held-out ones {:.0f} %",
                        harm ? "spoils what the base could" : "memorises", 100 * m.trained_gain,
                        100 * m.gain),
            {"take an earlier checkpoint, or lower train.steps",
             "lower train.learning_rate or lora.rank", "add pictures to dataset.path"}};
  if (m.gain < t.least_gain || m.falling > t.most_falling)
    return {"underfit",
            fmt::format("not learnt yet: held-out pictures gained {:.0f} %, {:.0f} % of that in "
                        "the last fifth of the steps",
                        100 * m.gain, 100 * m.falling),
            {"raise train.steps; --resume goes on where the schedule is constant",
             "raise train.learning_rate", "raise lora.rank"}};
  if (m.distortion > t.most_distortion)
    return {"bleeds",
            fmt::format("pictures without the trigger lose {:.0f} % of their forms, and move "
                        "{:.0f} % as far as those with it",
                        100 * m.distortion, 100 * m.bleed()),
            {"add pictures of other things as a folder with regularisation = true",
             "choose a rarer subject.trigger", "lower train.learning_rate or train.steps"}};
  return {"good",
          fmt::format("learnt {:.0f} % of the loss, {:.0f} % of what training pictures gained is "
                      "memory, and pictures without the trigger lose {:.0f} % of their forms",
                      100 * m.gain, 100 * std::max(m.gap(), 0.0), 100 * m.distortion),
          {}};
}

bool better(const Measures& a, const Measures& b, const Thresholds& t) {
  const int rank_a = rank(judge(a, t).name), rank_b = rank(judge(b, t).name);
  if (rank_a != rank_b) return rank_a < rank_b;
  return a.gain * (1 - a.bleed()) > b.gain * (1 - b.bleed());
}

}  // namespace fluxlora::eval
