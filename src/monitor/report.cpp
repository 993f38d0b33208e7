// SPDX-License-Identifier: Apache-2.0
#include "monitor/report.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include <fmt/format.h>
#include <openssl/evp.h>

#include "base/assets.h"
#include "base/file.h"
#include "monitor/chart.h"
#include "monitor/console.h"
#include "monitor/jsonl.h"
#include "monitor/page.h"

namespace fluxlora::monitor {

namespace fs = std::filesystem;

namespace {

/// What the page may take for pictures; of large samples the steps in the middle are left out.
constexpr int64_t kPictureBytes = int64_t{24} << 20;
constexpr size_t kMostColumns = 9;
constexpr size_t kMostPoints = 600;  // of a line

// ---- charts -------------------------------------------------------------------------------------

/// A series cut into at most kMostPoints pieces of equal length: mean, least and largest of each.
struct Pieces {
  Line mean{"raw", "each step", {}};
  Band range{"raw", {}, {}, {}};
};

Pieces pieces_of(const std::vector<Metrics::Step>& steps, double Metrics::Step::* value) {
  Pieces pieces;
  const size_t length = (steps.size() + kMostPoints - 1) / kMostPoints;
  for (size_t first = 0; first < steps.size(); first += length) {
    const size_t last = std::min(first + length, steps.size());
    double sum = 0, low = NAN, high = NAN;
    int64_t count = 0;
    for (size_t i = first; i < last; ++i) {
      const double v = steps[i].*value;
      if (!std::isfinite(v)) continue;
      sum += v;
      low = std::fmin(low, v);  // fmin and fmax pass NaN over
      high = std::fmax(high, v);
      ++count;
    }
    const auto x = static_cast<double>(steps[(first + last - 1) / 2].step);
    pieces.mean.points.emplace_back(x, count > 0 ? sum / static_cast<double>(count) : NAN);
    pieces.range.x.push_back(x);
    pieces.range.low.push_back(low);
    pieces.range.high.push_back(high);
  }
  return pieces;
}

/// The running mean over about a fortieth of the run, at most kMostPoints of it.
Line smoothed_loss(const std::vector<Metrics::Step>& steps) {
  Line line{"smooth", "smoothed", {}};
  const double weight = 1 / std::clamp(static_cast<double>(steps.size()) / 40, 8., 100.);
  Smoothed mean(weight);
  const size_t every = (steps.size() + kMostPoints - 1) / kMostPoints;
  for (size_t i = 0; i < steps.size(); ++i) {
    mean.add(steps[i].loss);
    if ((i % every == 0 || i + 1 == steps.size()) && mean.mean())
      line.points.emplace_back(static_cast<double>(steps[i].step), *mean.mean());
  }
  return line;
}

std::string figure(const std::string& svg, const std::string& caption) {
  return fmt::format("<figure>\n{}<figcaption>{}</figcaption>\n</figure>\n", svg, caption);
}

std::string key(const std::string& style, const std::string& name) {
  return fmt::format("<span class=\"key key-{}\">{}</span> ", style, escape_html(name));
}

std::string loss_figure(const Metrics& metrics) {
  Pieces raw = pieces_of(metrics.steps, &Metrics::Step::loss);
  const bool many = metrics.steps.size() > kMostPoints;
  std::vector<Line> lines{raw.mean, smoothed_loss(metrics.steps)};
  std::string caption = "<b>Loss</b> " + key("raw", many ? "means and range" : "each step") +
                        key("smooth", "smoothed");
  if (!metrics.validations.empty()) {
    Line validation{"validation", "validation", {}};
    for (const auto& v : metrics.validations)
      validation.points.emplace_back(static_cast<double>(v.step), v.loss);
    lines.push_back(std::move(validation));
    caption += key("validation", "held-out pictures");
  }
  const std::vector<Band> bands = many ? std::vector<Band>{raw.range} : std::vector<Band>{};
  return figure(line_chart({"The training loss by step", "step", "loss"}, lines, bands, true),
                caption);
}

/// Mean loss in ten ranges of the flow time, for the first and the second half of the run: where
/// the model learns does not show in one number, since noisy pictures have another loss than clean
/// ones.
std::string noise_figure(const std::vector<Metrics::Step>& steps) {
  constexpr size_t kRanges = 10;
  Bars bars;
  bars.series = {"first half of the run", "second half"};
  std::vector<std::vector<int64_t>> counts(2, std::vector<int64_t>(kRanges));
  bars.values.assign(2, std::vector<double>(kRanges));
  for (size_t r = 0; r < kRanges; ++r)
    bars.groups.push_back(fmt::format("{:.1f}-{:.1f}", static_cast<double>(r) / kRanges,
                                      static_cast<double>(r + 1) / kRanges));
  bool any = false;
  for (size_t i = 0; i < steps.size(); ++i)
    for (const double time : steps[i].timesteps) {
      if (!std::isfinite(steps[i].loss) || !(time >= 0 && time <= 1)) continue;
      const size_t half = 2 * i < steps.size() ? 0 : 1;
      const size_t range = std::min(static_cast<size_t>(time * kRanges), kRanges - 1);
      bars.values[half][range] += steps[i].loss;
      ++counts[half][range];
      any = true;
    }
  if (!any) return "";
  for (size_t h = 0; h < 2; ++h)
    for (size_t r = 0; r < kRanges; ++r)
      bars.values[h][r] =
          counts[h][r] > 0 ? bars.values[h][r] / static_cast<double>(counts[h][r]) : NAN;
  return figure(
      bar_chart({"The mean training loss by flow time", "flow time t: 0 picture, 1 noise", "loss"},
                bars),
      "<b>Loss by noise level</b> " + key("bar-0", bars.series[0]) + key("bar-1", bars.series[1]));
}

std::string small_figure(const std::vector<Metrics::Step>& steps, double Metrics::Step::* value,
                         const std::string& name) {
  const Pieces pieces = pieces_of(steps, value);
  Line line = pieces.mean;
  line.style = "smooth";
  return figure(line_chart({name + " by step", "step", ""}, {line}, {}, true),
                "<b>" + escape_html(name) + "</b>");
}

std::string charts(const Metrics& metrics) {
  if (metrics.steps.empty()) return "<p>No step has been made yet.</p>\n";
  return loss_figure(metrics) + noise_figure(metrics.steps) + "<div class=\"pair\">\n" +
         small_figure(metrics.steps, &Metrics::Step::grad_norm, "Gradient norm") +
         small_figure(metrics.steps, &Metrics::Step::learning_rate, "Learning rate") + "</div>\n";
}

// ---- pictures -----------------------------------------------------------------------------------

std::string data_uri(const fs::path& png) {
  const FileView file = map_file(png);
  std::string base64(4 * ((file.bytes.size() + 2) / 3) + 1, '\0');
  const int length = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(base64.data()),
                                     reinterpret_cast<const unsigned char*>(file.bytes.data()),
                                     static_cast<int>(file.bytes.size()));
  base64.resize(static_cast<size_t>(length));
  return "data:image/png;base64," + base64;
}

std::string image(const fs::path& png, const std::string& description) {
  return fmt::format("<img src=\"{}\" alt=\"{}\" title=\"{}\">", data_uri(png),
                     escape_html(description), escape_html(description));
}

int64_t bytes_of(const fs::path& file) {
  std::error_code error;
  const auto bytes = fs::file_size(file, error);
  return error ? 0 : static_cast<int64_t>(bytes);
}

struct SampleStep {
  int64_t step = 0;
  std::vector<fs::path> files;  ///< one a prompt
  int64_t bytes = 0;
};

/// samples/step-NNNNNN with their PNG files, by step.
std::vector<SampleStep> find_samples(const fs::path& folder) {
  std::map<int64_t, SampleStep> by_step;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    constexpr std::string_view kPrefix = "step-";
    const std::string digits = name.starts_with(kPrefix) ? name.substr(kPrefix.size()) : "";
    if (digits.empty() || digits.size() > 15 ||
        digits.find_first_not_of("0123456789") != std::string::npos)
      continue;
    SampleStep sample{std::stoll(digits), {}, 0};
    for (const auto& file : fs::directory_iterator(entry.path(), error))
      if (file.path().extension() == ".png" && !file.path().filename().string().starts_with('.')) {
        sample.files.push_back(file.path());
        sample.bytes += bytes_of(file.path());
      }
    std::sort(sample.files.begin(), sample.files.end());
    if (!sample.files.empty()) by_step[sample.step] = std::move(sample);
  }
  std::vector<SampleStep> samples;
  for (auto& [step, sample] : by_step) samples.push_back(std::move(sample));
  return samples;
}

/// At most as many as fit, spread evenly, the first and the last among them.
std::vector<SampleStep> choose(const std::vector<SampleStep>& all) {
  int64_t largest = 1;
  for (const SampleStep& sample : all) largest = std::max(largest, sample.bytes);
  const auto fit = static_cast<size_t>(std::max<int64_t>(kPictureBytes / largest, 2));
  const size_t count = std::min({all.size(), fit, kMostColumns});
  if (count == all.size()) return all;
  std::vector<SampleStep> chosen;
  for (size_t i = 0; i < count; ++i) chosen.push_back(all[i * (all.size() - 1) / (count - 1)]);
  return chosen;
}

std::string samples(const fs::path& folder, const ReportInfo& info) {
  const std::vector<SampleStep> all = find_samples(folder / "samples");
  if (all.empty()) return "";
  const std::vector<SampleStep> shown = choose(all);
  size_t prompts = 0;
  std::string head = "<th scope=\"col\">prompt</th>";
  for (const SampleStep& sample : shown) {
    prompts = std::max(prompts, sample.files.size());
    head += sample.step == 0 ? "<th scope=\"col\">before</th>"
                             : fmt::format("<th scope=\"col\">step {}</th>", sample.step);
  }
  std::string rows;
  for (size_t p = 0; p < prompts; ++p) {
    const std::string prompt =
        p < info.prompts.size() ? info.prompts[p] : fmt::format("picture {}", p + 1);
    rows += fmt::format("<tr><th scope=\"row\">{}</th>", escape_html(prompt));
    for (const SampleStep& sample : shown)
      rows +=
          p < sample.files.size()
              ? fmt::format("<td>{}</td>",
                            image(sample.files[p], fmt::format("{}, step {}", prompt, sample.step)))
              : "<td></td>";
    rows += "</tr>\n";
  }
  const std::string note =
      shown.size() == all.size()
          ? ""
          : fmt::format(
                "<p class=\"note\">{} of {} steps with samples are shown; all lie in "
                "samples/.</p>\n",
                shown.size(), all.size());
  return fmt::format(
      "<h2>Samples</h2>\n<p class=\"note\">The same prompts and the same noise each time.</p>\n"
      "<div class=\"scroll\"><table class=\"samples\"><thead><tr>{}</tr></thead>\n"
      "<tbody>\n{}</tbody></table></div>\n{}",
      head, rows, note);
}

std::string before_after(const fs::path& folder, const ReportInfo& info) {
  const fs::path file = folder / "before_after.png";
  if (!file_exists(file)) return "";
  return fmt::format(
      "<h2>Before and after</h2>\n<figure class=\"hero\">{}<figcaption>The same prompts and the "
      "same noise without and with the LoRA; the trigger word is "
      "<b>{}</b>.</figcaption></figure>\n",
      image(file, "Samples before training above samples after training"),
      escape_html(info.trigger));
}

// ---- words --------------------------------------------------------------------------------------

std::string fact_rows(const Metrics& metrics, const ReportInfo& info) {
  std::string rows;
  const auto add = [&](const std::string& name, const std::string& value) {
    rows += fmt::format("<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", escape_html(name),
                        escape_html(value));
  };
  add("trigger word", info.trigger);
  for (const auto& [name, value] : info.facts) add(name, value);
  if (metrics.steps.empty()) return rows;
  double seconds = 0;
  std::vector<double> times;
  for (const Metrics::Step& step : metrics.steps)
    if (std::isfinite(step.seconds)) {
      seconds += step.seconds;
      times.push_back(step.seconds);
    }
  add("steps", fmt::format("{}", metrics.steps.back().step));
  if (!times.empty()) {
    std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
    add("time in steps", fmt::format("{} ({:.3g} s a step in the middle)", format_duration(seconds),
                                     times[times.size() / 2]));
  }
  const Line smooth = smoothed_loss(metrics.steps);
  if (!smooth.points.empty())
    add("loss at the end, smoothed", fmt::format("{:.4f}", smooth.points.back().second));
  return rows;
}

/// config.toml's lines as a table; a line that is no "key = value" stands alone.
std::string settings(const std::string& config) {
  std::string rows;
  size_t at = 0;
  while (at < config.size()) {
    const size_t end = std::min(config.find('\n', at), config.size());
    const std::string line = config.substr(at, end - at);
    at = end + 1;
    if (line.empty()) continue;
    const size_t equals = line.find(" = ");
    if (line.starts_with('[')) {
      rows += fmt::format("<tr class=\"table\"><th colspan=\"2\" scope=\"colgroup\">{}</th></tr>\n",
                          escape_html(line));
    } else if (equals == std::string::npos) {
      rows += fmt::format("<tr><td colspan=\"2\"><code>{}</code></td></tr>\n", escape_html(line));
    } else {
      rows +=
          fmt::format("<tr><th scope=\"row\">{}</th><td><code>{}</code></td></tr>\n",
                      escape_html(line.substr(0, equals)), escape_html(line.substr(equals + 3)));
    }
  }
  return rows;
}

std::string warnings(const ReportInfo& info) {
  if (info.warnings.empty()) return "";
  std::string items;
  for (const std::string& warning : info.warnings)
    items += fmt::format("<li>{}</li>\n", escape_html(warning));
  return fmt::format("<section class=\"warnings\"><h2>Warnings</h2>\n<ul>\n{}</ul></section>\n",
                     items);
}

}  // namespace

void write_report(const fs::path& folder, const ReportInfo& info) {
  const Metrics metrics = read_metrics(folder / "metrics.jsonl");
  const FileView page = map_file("builtin:report/report.html");
  const std::string text = fill_page(page.text(), {{"style", page_style()},
                                                   {"name", escape_html(info.name)},
                                                   {"status", escape_html(info.status)},
                                                   {"warnings", warnings(info)},
                                                   {"before_after", before_after(folder, info)},
                                                   {"facts", fact_rows(metrics, info)},
                                                   {"charts", charts(metrics)},
                                                   {"samples", samples(folder, info)},
                                                   {"settings", settings(info.config)}});
  write_file_atomically(folder / "report.html", std::string_view(text));
}

}  // namespace fluxlora::monitor
