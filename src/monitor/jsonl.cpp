// SPDX-License-Identifier: Apache-2.0
#include "monitor/jsonl.h"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string_view>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace fluxlora::monitor {

namespace fs = std::filesystem;

namespace {

using Json = nlohmann::ordered_json;

Error cannot_write(const fs::path& path) {
  return environment_error(path.string(), std::string("cannot be written: ") + std::strerror(errno),
                           "check the disk and the folder's permissions");
}

class Jsonl : public Sink {
 public:
  explicit Jsonl(const fs::path& path)
      : path_(path), file_(std::fopen(path.c_str(), "ae"), std::fclose) {
    if (!file_) throw cannot_write(path_);
  }

  void on_step(const StepEvent& event) override {
    Json line{{"step", event.step},
              {"loss", event.loss},
              {"lr", event.learning_rate},
              {"grad_norm", event.grad_norm},
              {"param_norm", event.param_norm},
              {"seconds", event.seconds},
              {"timesteps", event.timesteps}};
    if (event.preserved) line["preservation_loss"] = *event.preserved;
    if (event.noise_scale) line["noise_scale"] = *event.noise_scale;
    write(line);
  }

  void on_validation(const ValidationEvent& event) override {
    Json line{{"step", event.step}, {"val_loss", event.loss}};
    if (event.drift) line["drift"] = *event.drift;
    write(line);
  }

 private:
  void write(const Json& line) {
    const std::string text = line.dump() + "\n";
    const bool written = std::fwrite(text.data(), 1, text.size(), file_.get()) == text.size();
    if (!written || std::fflush(file_.get()) != 0) throw cannot_write(path_);
  }

  fs::path path_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
};

/// Calls visit(line with its line feed, its JSON) for every whole line.
void each_line(const fs::path& path, std::string_view text,
               const std::function<void(std::string_view, const Json&)>& visit) {
  for (int64_t number = 1; !text.empty(); ++number) {
    const size_t end = text.find('\n');
    if (end == std::string_view::npos) return;
    const std::string_view line = text.substr(0, end + 1);
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    const auto step = json.is_object() ? json.find("step") : json.end();
    if (!json.is_object() || step == json.end() || !step->is_number_integer())
      throw bad_input(fmt::format("{}:{}", path.string(), number), "is not a line of metrics",
                      "move the file away; it is made anew");
    visit(line, json);
    text.remove_prefix(end + 1);
  }
}

double number(const Json& line, const char* key) {
  const auto found = line.find(key);
  return found != line.end() && found->is_number() ? found->get<double>() : NAN;
}

}  // namespace

std::unique_ptr<Sink> make_jsonl(const fs::path& path) {
  return std::make_unique<Jsonl>(path);
}

void cut_metrics(const fs::path& path, int64_t step) {
  if (!file_exists(path)) return;
  const std::string text = read_text(path, Encoding::any);
  std::string kept;
  each_line(path, text, [&](std::string_view line, const Json& json) {
    if (json.at("step").get<int64_t>() <= step) kept += line;
  });
  if (kept != text) write_file_atomically(path, std::string_view(kept));
}

Metrics read_metrics(const fs::path& path) {
  Metrics metrics;
  if (!file_exists(path)) return metrics;
  const std::string text = read_text(path, Encoding::any);
  each_line(path, text, [&](std::string_view, const Json& json) {
    const int64_t step = json.at("step").get<int64_t>();
    if (json.contains("val_loss")) {
      metrics.validations.push_back({step, number(json, "val_loss"), {}});
      if (json.contains("drift")) metrics.validations.back().drift = number(json, "drift");
      return;
    }
    Metrics::Step& entry = metrics.steps.emplace_back();
    entry = {step,
             number(json, "loss"),
             number(json, "lr"),
             number(json, "grad_norm"),
             number(json, "seconds"),
             {}};
    if (const auto times = json.find("timesteps"); times != json.end() && times->is_array())
      for (const Json& time : *times)
        if (time.is_number()) entry.timesteps.push_back(time.get<double>());
  });
  return metrics;
}

}  // namespace fluxlora::monitor
