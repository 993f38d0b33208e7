// SPDX-License-Identifier: Apache-2.0
// Inside this room only: charts as SVG text for a page that brings the colours (assets/report).
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace fluxlora::monitor {

struct ChartText {
  std::string title;  ///< for those who cannot see it: what it shows, in one sentence
  std::string x, y;   ///< what the axes mean; empty: not said
};

/// A line, drawn with the style "line-STYLE" of the page.
struct Line {
  std::string style, name;
  std::vector<std::pair<double, double>> points;  ///< not finite: a gap
};

/// A band between a lower and an upper value, under the lines.
struct Band {
  std::string style;
  std::vector<double> x, low, high;
};

/// Lines over a common x. The y axis begins at 0 when `from_zero`, and leaves the highest
/// hundredth of the values out when they would squash the rest.
std::string line_chart(const ChartText& text, const std::vector<Line>& lines,
                       const std::vector<Band>& bands, bool from_zero);

/// Groups of bars; values[series][group], not finite: no bar. Styles "bar-0", "bar-1" ...
struct Bars {
  std::vector<std::string> groups, series;
  std::vector<std::vector<double>> values;
};
std::string bar_chart(const ChartText& text, const Bars& bars);

}  // namespace fluxlora::monitor
