// SPDX-License-Identifier: Apache-2.0
#include <chrono>

#include "stopwatch.h"

namespace fluxlora::bench {
namespace {

class HostStopwatch final : public Stopwatch {
 public:
  void mark() override { marks_.push_back(std::chrono::steady_clock::now()); }
  std::vector<double> take() override {
    std::vector<double> seconds;
    for (size_t i = 1; i < marks_.size(); ++i)
      seconds.push_back(std::chrono::duration<double>(marks_[i] - marks_[i - 1]).count());
    marks_.clear();
    return seconds;
  }

 private:
  std::vector<std::chrono::steady_clock::time_point> marks_;
};

}  // namespace

std::unique_ptr<Stopwatch> make_host_stopwatch() {
  return std::make_unique<HostStopwatch>();
}

#ifndef FLUXLORA_BENCH_CUDA
std::unique_ptr<Stopwatch> make_stopwatch(Device&) {
  return make_host_stopwatch();
}
void let_add_in_any_order(Device&) {}
#endif

}  // namespace fluxlora::bench
