// SPDX-License-Identifier: Apache-2.0
// fluxlora prepare: from a folder of snapshots to a dataset.
#include "prepare/prepare.h"

#include <charconv>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "base/signal.h"
#include "cli/args.h"
#include "cli/commands.h"

namespace fluxlora::cli {
namespace {

using Json = nlohmann::ordered_json;

struct PrepareArgs {
  prepare::Options options;
  std::vector<std::string> focus;
  std::string background;
  bool json = false, strict = false;
};

/// All of the text as a number.
bool parse(std::string_view text, double& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

/// "NAME=X,Y".
std::pair<std::string, Point> parse_focus(const std::string& text) {
  const size_t equals = text.rfind('='), comma = text.rfind(',');
  Point point;
  if (equals == std::string::npos || equals == 0 || comma == std::string::npos || comma < equals ||
      !parse(std::string_view(text).substr(equals + 1, comma - equals - 1), point.x) ||
      !parse(std::string_view(text).substr(comma + 1), point.y) ||
      !(std::abs(point.x) < 1e6 && std::abs(point.y) < 1e6))
    throw bad_input("--focus " + text, "is not NAME=X,Y",
                    "give a file and the pixel of its subject, as in --focus cat.jpg=1200,800");
  return {text.substr(0, equals), point};
}

/// "#rrggbb" or "rrggbb".
std::array<uint8_t, 3> parse_colour(const std::string& text) {
  const std::string_view digits = std::string_view(text).substr(text.starts_with('#') ? 1 : 0);
  uint32_t value = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  if (digits.size() != 6 || error != std::errc() || end != digits.data() + digits.size())
    throw bad_input("--background " + text, "is not a colour",
                    "give red, green and blue as six hexadecimal digits, as in ffffff for white");
  return {static_cast<uint8_t>(value >> 16), static_cast<uint8_t>(value >> 8),
          static_cast<uint8_t>(value)};
}

Json to_json(const Box& box) {
  return {{"x", box.x}, {"y", box.y}, {"width", box.width}, {"height", box.height}};
}

Json to_json(Size size) {
  return {{"width", size.width}, {"height", size.height}};
}

/// For programs, on stdout.
void print_json(const prepare::Report& report, const std::filesystem::path& output) {
  Json json{{"output", output.string()}};
  json["pictures"] = Json::array();
  for (const prepare::PreparedPicture& p : report.pictures)
    json["pictures"].push_back({{"file", p.file},
                                {"written", p.written},
                                {"source", to_json(p.source)},
                                {"box", to_json(p.used)},
                                {"found_by", p.crop.found_by},
                                {"size", to_json(p.size)},
                                {"caption", p.caption}});
  json["findings"] = Json::array();
  for (const prepare::Finding& f : report.findings)
    json["findings"].push_back({{"kind", f.kind},
                                {"pictures", f.pictures},
                                {"reason", f.reason},
                                {"remedy", f.remedy},
                                {"left_out", f.left_out}});
  json["notes"] = report.notes;
  if (!report.trigger_split.empty()) json["trigger"] = report.trigger_split;
  // A name that is not UTF-8 stands in a finding.
  std::cout << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
}

void print_findings(const prepare::Report& report) {
  for (const prepare::Finding& finding : report.findings) log_warning(finding.line());
  for (const std::string& note : report.notes) log_info(prepare::shown_name(note));
  if (!report.trigger_split.empty()) log_info(report.trigger_split);
}

[[noreturn]] void refuse(const prepare::Report& report) {
  const prepare::Finding& first = report.findings.front();
  const size_t others = report.findings.size() - 1;
  throw bad_input(
      first.pictures.empty() ? "--strict" : prepare::shown_name(first.pictures.front()),
      first.reason,
      others == 0 ? first.remedy : fmt::format("{} ({} more above)", first.remedy, others));
}

int run_prepare(PrepareArgs& args) {
  for (const std::string& text : args.focus) args.options.focus.insert(parse_focus(text));
  if (!args.background.empty()) args.options.background = parse_colour(args.background);
  install_signal_handlers();
  prepare::Preparation preparation(args.options, stop_requested);
  const prepare::Report& report = preparation.look();
  if (stop_requested()) return 128 + stop_signal();
  print_findings(report);
  const bool refused = args.strict && !report.findings.empty();
  if (!refused) preparation.write();
  if (args.json) print_json(report, args.options.output);
  if (refused) refuse(report);
  if (stop_requested()) return 128 + stop_signal();
  log_info(fmt::format(
      "{}: {} picture{} of {}{}x{} pixels; look at contact_sheet.png and dataset.html",
      args.options.output.string(), report.pictures.size(), report.pictures.size() == 1 ? "" : "s",
      args.options.buckets ? "about " : "", args.options.resolution, args.options.resolution));
  return 0;
}

}  // namespace

void add_prepare(CLI::App& program, int& status) {
  const auto args = std::make_shared<PrepareArgs>();
  prepare::Options& o = args->options;
  CLI::App* command =
      program.add_subcommand("prepare", "Make a dataset from a folder of snapshots");
  command->add_option("pictures", o.pictures, "The folder of your pictures; they stay as they are")
      ->required()
      ->type_name("PICTURES");
  command->add_option("--output", o.output, "The dataset: pictures, captions, crop.json")
      ->required()
      ->type_name("DIR");
  command->add_option("--trigger", o.trigger, "A word that every caption gets, once")
      ->type_name("WORD");
  command->add_option("--resolution", o.resolution, "Side of the squares in pixels; 1024")
      ->type_name("N");
  command->add_flag("--buckets", o.buckets,
                    "Rectangles of the pictures' shape and the square's area instead");
  command
      ->add_option("--max-upscale", o.max_upscale,
                   fmt::format("A crop that must be enlarged more is left out; {}", o.max_upscale))
      ->type_name("TIMES");
  command->add_option("--focus", args->focus, "Where the subject of a picture is, in its pixels")
      ->type_name("NAME=X,Y");
  command
      ->add_option("--background", args->background,
                   "What shows through transparent pixels; white unless given")
      ->type_name("RRGGBB");
  command->add_option("--caption", o.caption.kind, "Who describes pictures without a caption")
      ->type_name("none|wd14|florence2");
  command->add_option("--caption-model", o.caption.model, "The folder of the model's ONNX files")
      ->type_name("DIR");
  command
      ->add_option("--tag-threshold", o.caption.tagger.general_threshold,
                   fmt::format("wd14: tags that are more probable are taken; {}",
                               o.caption.tagger.general_threshold))
      ->type_name("P");
  command
      ->add_option(
          "--character-threshold", o.caption.tagger.character_threshold,
          fmt::format("The same for names of characters; {}", o.caption.tagger.character_threshold))
      ->type_name("P");
  command->add_option("--tag-blacklist", o.caption.tagger.blacklist, "wd14: tags never taken")
      ->delimiter(',')
      ->type_name("TAG,TAG...");
  command
      ->add_option("--caption-detail", o.caption.florence.detail,
                   "florence2: how much it says; " + o.caption.florence.detail)
      ->type_name("short|detailed|long");
  command->add_flag("--overwrite-captions", o.overwrite_captions,
                    "Make the captions in the output again");
  command->add_flag("--strict", args->strict, "Stop on any warning, and write nothing");
  command->add_flag("--json", args->json, "Print a report for programs");
  set_example(*command, "fluxlora prepare photos --output dataset --trigger mytoken_mascot");
  command->callback([args, &status] { status = run_prepare(*args); });
}

}  // namespace fluxlora::cli
