// SPDX-License-Identifier: Apache-2.0
// What is said about a run: metrics.jsonl, the progress line, report.html.
#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "monitor/chart.h"
#include "monitor/console.h"
#include "monitor/jsonl.h"
#include "monitor/report.h"
#include "unit/expect_error.h"
#include "unit/temporary_folder.h"

namespace fluxlora::monitor {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

StepEvent step_event(int64_t step, double loss = 0.5) {
  StepEvent event;
  event.step = step;
  event.steps = 100;
  event.loss = loss;
  event.learning_rate = 1e-4;
  event.grad_norm = 0.25;
  event.seconds = 2;
  event.timesteps = {0.125, 0.75};
  event.param_norm = 8;
  return event;
}

// ---- metrics.jsonl ------------------------------------------------------------------------------

class MetricsFile : public ::testing::Test {
 protected:
  std::string text() const { return read_text(file_); }

  TemporaryFolder folder_;
  const fs::path file_ = folder_ / "metrics.jsonl";
};

TEST_F(MetricsFile, HasOneLineAStepAndOneAValidation) {
  const auto sink = make_jsonl(file_);
  sink->on_step(step_event(1));
  EXPECT_EQ(text(),
            "{\"step\":1,\"loss\":0.5,\"lr\":0.0001,\"grad_norm\":0.25,\"param_norm\":8.0,"
            "\"seconds\":2.0,"
            "\"timesteps\":[0.125,0.75]}\n")
      << "flushed at once";
  sink->on_validation({1, 0.375});
  EXPECT_THAT(text(), ::testing::EndsWith("\n{\"step\":1,\"val_loss\":0.375}\n"));
}

TEST_F(MetricsFile, NumbersComeBackAsTheyWere) {
  const std::vector<double> values{1. / 3, 0.1 + 0.2,  5e-324, 1.7976931348623157e308,
                                   -0.,    123456789., 1e-4,   0.4171428571428571};
  {
    const auto sink = make_jsonl(file_);
    for (const double value : values) {
      StepEvent event = step_event(1, value);
      event.timesteps = values;
      sink->on_step(event);
    }
    sink->on_step(step_event(2, NAN));
  }
  const Metrics metrics = read_metrics(file_);
  ASSERT_EQ(metrics.steps.size(), values.size() + 1);
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(metrics.steps[i].loss, values[i]);
    EXPECT_EQ(metrics.steps[i].timesteps, values);
  }
  EXPECT_TRUE(std::isnan(metrics.steps.back().loss));
  EXPECT_THAT(text(), HasSubstr("\"loss\":null"));
}

TEST_F(MetricsFile, IsCutBackToAStepAndContinued) {
  const auto write = [&](int64_t first, int64_t last) {
    const auto sink = make_jsonl(file_);
    for (int64_t step = first; step <= last; ++step) {
      sink->on_step(step_event(step, 1. / static_cast<double>(step)));
      if (step % 3 == 0) sink->on_validation({step, 0.25});
    }
  };
  write(1, 10);
  const std::string whole = text();
  cut_metrics(file_, 10);
  EXPECT_EQ(text(), whole);
  cut_metrics(file_, 6);
  EXPECT_EQ(read_metrics(file_).steps.size(), 6u);
  EXPECT_EQ(read_metrics(file_).validations.size(), 2u);
  EXPECT_EQ(text(), whole.substr(0, text().size())) << "what stays is untouched";
  write(7, 10);
  EXPECT_EQ(text(), whole) << "a resumed run's file is that of a run that never stopped";
  cut_metrics(file_, 0);
  EXPECT_EQ(text(), "");
}

TEST_F(MetricsFile, ALineThatACrashLeftUnfinishedGoes) {
  {
    const auto sink = make_jsonl(file_);
    sink->on_step(step_event(1));
  }
  const std::string whole = text();
  write_file_atomically(file_, std::string_view(whole + "{\"step\":2,\"lo"));
  EXPECT_EQ(read_metrics(file_).steps.size(), 1u);
  cut_metrics(file_, 5);
  EXPECT_EQ(text(), whole);
}

TEST_F(MetricsFile, WhatIsNoMetricsIsRefusedAndKept) {
  cut_metrics(file_, 3);
  EXPECT_FALSE(fs::exists(file_)) << "nothing to cut is nothing to make";
  EXPECT_TRUE(read_metrics(file_).steps.empty());
  for (const char* other : {"hello\n", "[1]\n", "{\"loss\":1}\n", "{\"step\":\"1\"}\n", "\n"}) {
    write_file_atomically(file_, std::string_view(other));
    EXPECT_ERROR(cut_metrics(file_, 0), bad_input, "metrics.jsonl:1", "is not a line of metrics");
    EXPECT_EQ(text(), other);
  }
  EXPECT_ERROR(make_jsonl(folder_ / "none" / "metrics.jsonl"), environment, "metrics.jsonl",
               "cannot be written");
  if (fs::exists("/dev/full"))
    EXPECT_ERROR(make_jsonl("/dev/full")->on_step(step_event(1)), environment, "/dev/full",
                 "No space left");
}

// ---- the progress line --------------------------------------------------------------------------

TEST(Progress, TellsWhatAPersonWantsToKnow) {
  EXPECT_EQ(progress_text(step_event(40), 0.41037, 0.5),
            "step 40/100  loss 0.4104  0.50 s/step  0:30 left  lr 1.00e-04");
  EXPECT_EQ(progress_text(step_event(1), 0.5, std::nullopt),
            "step 1/100  loss 0.5000  lr 1.00e-04");
  EXPECT_EQ(progress_text(step_event(1), 0.5, 61.25),
            "step 1/100  loss 0.5000  61.2 s/step  1:41:04 left  lr 1.00e-04");
}

TEST(Progress, Durations) {
  EXPECT_EQ(format_duration(0), "0:00");
  EXPECT_EQ(format_duration(59.6), "1:00");
  EXPECT_EQ(format_duration(65), "1:05");
  EXPECT_EQ(format_duration(3600 + 2 * 60 + 3), "1:02:03");
  EXPECT_EQ(format_duration(86400 + 3600), "1 day 1:00:00");
  EXPECT_EQ(format_duration(3 * 86400 + 4 * 3600 + 5 * 60 + 6), "3 days 4:05:06");
  EXPECT_EQ(format_duration(NAN), "?");
  EXPECT_EQ(format_duration(-5), "0:00");
}

TEST(Progress, SmoothingCountsTheFirstValuesAlike) {
  Smoothed mean(1. / 40);
  EXPECT_EQ(mean.mean(), std::nullopt);
  mean.add(3);
  EXPECT_NEAR(*mean.mean(), 3, 1e-12);
  mean.add(NAN);
  mean.add(std::numeric_limits<double>::infinity());
  EXPECT_NEAR(*mean.mean(), 3, 1e-12);
  mean.add(5);
  EXPECT_NEAR(*mean.mean(), 4, 0.05) << "nearly the plain mean of two";
  for (int i = 0; i < 2000; ++i) mean.add(7);
  EXPECT_NEAR(*mean.mean(), 7, 1e-9);
}

// ---- report.html --------------------------------------------------------------------------------

class Report : public ::testing::Test {
 protected:
  std::string write(const ReportInfo& info) const {
    write_report(folder_.path(), info);
    return read_text(folder_ / "report.html");
  }
  void add_sample(int64_t step, int prompt, const std::string& bytes) const {
    char name[64];
    std::snprintf(name, sizeof name, "samples/step-%06d", static_cast<int>(step));
    make_folder(folder_ / name);
    std::snprintf(name, sizeof name, "samples/step-%06d/%02d.png", static_cast<int>(step), prompt);
    write_file_atomically(folder_ / name, std::string_view(bytes));
  }
  void add_steps(int64_t steps) const {
    const auto sink = make_jsonl(folder_ / "metrics.jsonl");
    for (int64_t i = 1; i <= steps; ++i)
      sink->on_step(step_event(i, 0.5 + 0.3 * std::sin(0.1 * static_cast<double>(i))));
  }

  TemporaryFolder folder_;
};

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST_F(Report, HoldsTheWholeRunAndNeedsNoNetwork) {
  add_steps(50);
  for (const int64_t step : {0, 25, 50})
    for (const int prompt : {0, 1}) add_sample(step, prompt, "png");
  write_file_atomically(folder_ / "before_after.png", std::string_view("both"));
  ReportInfo info;
  info.name = "quickstart";
  info.trigger = "zorbot";
  info.status = "finished: 50 steps";
  info.config = "[lora]\nrank = 16\n";
  info.prompts = {"[trigger] in a wood", "a lake"};
  info.warnings = {"photo.jpg: is enlarged"};
  info.facts = {{"pictures", "12"}};
  const std::string page = write(info);
  for (const char* part : {"<title>quickstart - fluxlora</title>", "finished: 50 steps", "zorbot",
                           "photo.jpg: is enlarged", "<th scope=\"row\">pictures</th><td>12</td>",
                           "<th scope=\"row\">rank</th><td><code>16</code></td>",
                           "[trigger] in a wood", "a lake", "Loss by noise level", "lang=\"en\"",
                           "prefers-color-scheme: dark", "data:image/png;base64,Ym90aA=="})
    EXPECT_THAT(page, HasSubstr(part));
  EXPECT_EQ(count_of(page, "data:image/png;base64,cG5n\""), 6u) << "three steps, two prompts";
  EXPECT_EQ(count_of(page, "<img "), count_of(page, " alt=\""));
  EXPECT_EQ(count_of(page, "<svg "), 4u);
  EXPECT_EQ(count_of(page, "<svg "), count_of(page, "role=\"img\" aria-label=\""));
  EXPECT_THAT(page, Not(HasSubstr("{{")));
  for (const char* remote : {"http:", "https:", "src=\"/", "@import", "<link", "<script"})
    EXPECT_THAT(page, Not(HasSubstr(remote)));
}

TEST_F(Report, WorksBeforeTheFirstStep) {
  ReportInfo info;
  info.name = "early";
  const std::string page = write(info);
  EXPECT_THAT(page, HasSubstr("No step has been made yet"));
  EXPECT_THAT(page, Not(HasSubstr("<img")));
  EXPECT_THAT(page, Not(HasSubstr("Warnings</h2>")));
}

TEST_F(Report, TextOfTheUserStaysText) {
  add_sample(0, 0, "png");
  ReportInfo info;
  info.name = "<b>&\"'";
  info.trigger = "<script>alert(1)</script>";
  info.prompts = {"\"><img src=x>"};
  info.warnings = {"{{samples}} </li>"};
  info.config = "name = \"<i>\"\n";
  const std::string page = write(info);
  EXPECT_THAT(page, HasSubstr("&lt;b&gt;&amp;&quot;&#39;"));
  EXPECT_THAT(page, HasSubstr("{{samples}} &lt;/li&gt;")) << "not taken for a place of the page";
  for (const char* markup : {"<script>", "<img src=x>", "<i>", "<b>&"})
    EXPECT_THAT(page, Not(HasSubstr(markup)));
}

TEST_F(Report, LongRunsAndLargePicturesStaySmall) {
  add_steps(20'000);
  const std::string large(3'000'000, 'x');
  for (int64_t step = 0; step <= 12; ++step) add_sample(step * 10, 0, large);
  ReportInfo info;
  info.name = "long";
  const std::string page = write(info);
  EXPECT_LT(page.size(), size_t{40} << 20);
  EXPECT_EQ(count_of(page, "<img "), 8u) << "24 MiB hold 8 of these";
  EXPECT_THAT(page, HasSubstr("8 of 13 steps with samples are shown"));
  EXPECT_THAT(page, HasSubstr(">before</th>"));
  EXPECT_THAT(page, HasSubstr(">step 120</th>"));
}

TEST(Chart, DrawsWhatIsFiniteInsideItsFrame) {
  const Line line{"raw", "raw", {{1, 0.5}, {2, NAN}, {3, 1.5}, {4, 1}}};
  const std::string svg = line_chart({"<title>", "x", "y"}, {line}, {}, true);
  EXPECT_THAT(svg, HasSubstr("aria-label=\"&lt;title&gt;\""));
  EXPECT_EQ(count_of(svg, "nan"), 0u);
  EXPECT_EQ(count_of(svg, "inf"), 0u);
  const size_t path = svg.find("<path");
  ASSERT_NE(path, std::string::npos);
  EXPECT_EQ(count_of(svg.substr(path, svg.find("/>", path) - path), "M"), 2u) << "a gap at the NaN";
  for (const auto& points :
       std::vector<std::vector<std::pair<double, double>>>{{},
                                                           {{1, 1}},
                                                           {{1, NAN}},
                                                           {{1, 0}, {2, 0}},
                                                           {{1, 1e300}, {2, -1e300}},
                                                           {{5, 1}, {5, 2}}}) {
    const std::string odd = line_chart({"t", "x", "y"}, {{"raw", "raw", points}}, {}, false);
    EXPECT_EQ(count_of(odd, "nan"), 0u);
    EXPECT_EQ(count_of(odd, "inf"), 0u);
    EXPECT_LT(odd.size(), 10'000u);
  }
}

TEST(Chart, BarsHaveTheirHeights) {
  const std::string svg =
      bar_chart({"t", "x", "y"}, {{"a", "b"}, {"one", "two"}, {{1, 2}, {NAN, 0.5}}});
  EXPECT_EQ(count_of(svg, "<rect class=\"bar-0\""), 2u);
  EXPECT_EQ(count_of(svg, "<rect class=\"bar-1\""), 1u);
  EXPECT_THAT(svg, HasSubstr("<title>two, b: 0.5</title>"));
}

}  // namespace
}  // namespace fluxlora::monitor
