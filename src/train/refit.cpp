// SPDX-License-Identifier: Apache-2.0
#include "train/refit.h"

#include <vector>

#include "base/file.h"
#include "eval/early_stop.h"
#include "monitor/jsonl.h"
#include "train/run_folder.h"

namespace fluxlora::train {

std::optional<RunOptions> refit_options(const RunOptions& finished) {
  if (!finished.validate.refit) return {};
  const RunPaths paths = run_paths(finished);
  std::vector<eval::LossPoint> history;
  const monitor::Metrics metrics = monitor::read_metrics(paths.metrics());
  for (const auto& point : metrics.validations) history.push_back({point.step, point.loss});
  if (history.empty()) return {};
  const int64_t best = history[eval::early_stop(history, finished.validate.stopping).best].step;
  if (best == 0) return {};
  RunOptions second = finished;
  second.train.steps = best;
  second.train.max_time = 0;
  second.validate = {};
  second.validate.every = 0;
  second.validate.prompts = finished.validate.prompts;
  second.output.path = paths.root / "refit";
  return second;
}

void take_refit(const RunOptions& finished, const RunOptions& second) {
  write_file_atomically(run_paths(finished).lora(),
                        read_text(run_paths(second).lora(), Encoding::any));
}

}  // namespace fluxlora::train
