// SPDX-License-Identifier: Apache-2.0
#include "monitor/chart.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include <fmt/format.h>

#include "monitor/page.h"

namespace fluxlora::monitor {
namespace {

// The picture's own units; the page scales it.
constexpr double kWidth = 720, kHeight = 270;
constexpr double kLeft = 58, kRight = 704, kTop = 16, kBottom = 226;

struct Axis {
  double least = 0, most = 1, from = 0, to = 1;  ///< values, and where they lie in the picture

  double at(double value) const {
    return from + (std::clamp(value, least, most) - least) / (most - least) * (to - from);
  }
};

/// Round numbers, about `count` of them, within [least, most].
std::vector<double> ticks(double least, double most, int count) {
  const double rough = (most - least) / count;
  const double power = std::pow(10., std::floor(std::log10(rough)));
  double step = power;
  for (const double factor : {1., 2., 5., 10.})
    if (factor * power >= rough * 0.7) {
      step = factor * power;
      break;
    }
  std::vector<double> values;
  for (double k = std::ceil(least / step - 1e-9); k * step <= most + 1e-9 * step; ++k)
    values.push_back(k * step == 0 ? 0 : k * step);
  return values;
}

std::string begin(const ChartText& text) {
  return fmt::format(
      "<svg class=\"chart\" viewBox=\"0 0 {:g} {:g}\" role=\"img\" aria-label=\"{}\">\n", kWidth,
      kHeight, escape_html(text.title));
}

std::string labels(const ChartText& text) {
  std::string svg =
      fmt::format("<text class=\"label\" x=\"{:g}\" y=\"{:g}\" text-anchor=\"middle\">{}</text>\n",
                  (kLeft + kRight) / 2, kHeight - 8, escape_html(text.x));
  if (!text.y.empty())
    svg += fmt::format(
        "<text class=\"label\" x=\"14\" y=\"{0:g}\" text-anchor=\"middle\" "
        "transform=\"rotate(-90 14 {0:g})\">{1}</text>\n",
        (kTop + kBottom) / 2, escape_html(text.y));
  return svg;
}

std::string y_grid(const Axis& y) {
  std::string svg;
  for (const double value : ticks(y.least, y.most, 5))
    svg += fmt::format(
        "<line class=\"grid\" x1=\"{:g}\" x2=\"{:g}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>"
        "<text class=\"tick\" x=\"{:g}\" y=\"{:.1f}\" text-anchor=\"end\">{:g}</text>\n",
        kLeft, kRight, y.at(value), y.at(value), kLeft - 8, y.at(value) + 4, value);
  return svg;
}

std::string x_ticks(const Axis& x) {
  std::string svg;
  for (const double value : ticks(x.least, x.most, 8))
    svg += fmt::format(
        "<text class=\"tick\" x=\"{:.1f}\" y=\"{:g}\" text-anchor=\"middle\">{:g}</text>\n",
        x.at(value), kBottom + 18, value);
  return svg;
}

/// The range of the finite values, the highest hundredth left out.
std::pair<double, double> range_of(std::vector<double> values, bool from_zero) {
  std::erase_if(values, [](double v) { return !std::isfinite(v); });
  if (values.empty()) return {0, 1};
  std::sort(values.begin(), values.end());
  const double high = values[(values.size() - 1) * 99 / 100];
  const double most = std::min(values.back(), high + 0.5 * std::abs(high));
  double least = from_zero ? std::min(0., values.front()) : values.front();
  const double room = most > least ? 0.06 * (most - least) : std::max(std::abs(most), 1e-12) * 0.1;
  if (!(from_zero && least == 0)) least -= room;
  return {least, most + room};
}

std::string draw(const Line& line, const Axis& x, const Axis& y) {
  std::string path;
  bool pen_down = false;
  for (const auto& [px, py] : line.points) {
    if (!std::isfinite(px) || !std::isfinite(py)) {
      pen_down = false;
      continue;
    }
    path += fmt::format("{}{:.1f} {:.1f}", pen_down ? "L" : "M", x.at(px), y.at(py));
    pen_down = true;
  }
  return fmt::format("<path class=\"line-{}\" d=\"{}\"/>\n", line.style, path);
}

std::string draw(const Band& band, const Axis& x, const Axis& y) {
  std::string points;
  const size_t n = band.x.size();
  const auto add = [&](size_t i, double value) {
    if (std::isfinite(value)) points += fmt::format("{:.1f},{:.1f} ", x.at(band.x[i]), y.at(value));
  };
  for (size_t i = 0; i < n; ++i) add(i, band.low[i]);
  for (size_t i = n; i-- > 0;) add(i, band.high[i]);
  return fmt::format("<polygon class=\"band-{}\" points=\"{}\"/>\n", band.style, points);
}

}  // namespace

std::string line_chart(const ChartText& text, const std::vector<Line>& lines,
                       const std::vector<Band>& bands, bool from_zero) {
  Axis x{0, 1, kLeft, kRight}, y{0, 1, kBottom, kTop};
  std::vector<double> values;
  bool any = false;
  for (const Line& line : lines)
    for (const auto& [px, py] : line.points) {
      values.push_back(py);
      x.least = any ? std::min(x.least, px) : px;
      x.most = any ? std::max(x.most, px) : px;
      any = true;
    }
  for (const Band& band : bands) values.insert(values.end(), band.high.begin(), band.high.end());
  if (x.most <= x.least) x.most = x.least + 1;
  std::tie(y.least, y.most) = range_of(values, from_zero);
  std::string svg = begin(text) + y_grid(y) + x_ticks(x) + labels(text);
  for (const Band& band : bands) svg += draw(band, x, y);
  for (const Line& line : lines) svg += draw(line, x, y);
  return svg + "</svg>\n";
}

std::string bar_chart(const ChartText& text, const Bars& bars) {
  Axis y{0, 0, kBottom, kTop};
  for (const auto& series : bars.values)
    for (const double value : series)
      if (std::isfinite(value)) y.most = std::max(y.most, 1.06 * value);
  if (y.most == 0) y.most = 1;
  std::string svg = begin(text) + y_grid(y) + labels(text);
  const double group_width = (kRight - kLeft) / static_cast<double>(bars.groups.size());
  const double bar_width = group_width * 0.8 / static_cast<double>(bars.series.size());
  for (size_t g = 0; g < bars.groups.size(); ++g) {
    const double left = kLeft + group_width * (static_cast<double>(g) + 0.1);
    svg += fmt::format(
        "<text class=\"tick\" x=\"{:.1f}\" y=\"{:g}\" text-anchor=\"middle\">{}</text>\n",
        left + group_width * 0.4, kBottom + 18, escape_html(bars.groups[g]));
    for (size_t s = 0; s < bars.series.size(); ++s) {
      const double value = bars.values[s][g];
      if (!std::isfinite(value)) continue;
      svg += fmt::format(
          "<rect class=\"bar-{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\">"
          "<title>{}, {}: {:.4g}</title></rect>\n",
          s, left + bar_width * static_cast<double>(s), y.at(value), bar_width - 1,
          kBottom - y.at(value), escape_html(bars.series[s]), escape_html(bars.groups[g]), value);
    }
  }
  return svg + "</svg>\n";
}

}  // namespace fluxlora::monitor
