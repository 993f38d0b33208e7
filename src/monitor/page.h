// SPDX-License-Identifier: Apache-2.0
// Pages of HTML from a template of assets/report.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace fluxlora::monitor {

/// Text as HTML or SVG shows it.
std::string escape_html(const std::string& text);

/// The style sheet that all pages share.
std::string page_style();

/// The template with each {{name}} replaced once, from front to back: what is put in is not looked
/// at again.
std::string fill_page(std::string_view page, const std::map<std::string, std::string>& parts);

}  // namespace fluxlora::monitor
