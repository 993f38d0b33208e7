// SPDX-License-Identifier: Apache-2.0
#include "prepare/prepare.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/parallel.h"
#include "caption/trigger_check.h"
#include "data/bucket.h"
#include "data/caption.h"
#include "data/caption_source.h"
#include "data/scan.h"
#include "prepare/checks.h"
#include "prepare/layout.h"
#include "prepare/pages.h"

namespace fluxlora::prepare {

namespace fs = std::filesystem;

namespace {

void check_options(const Options& options) {
  constexpr int64_t kStep = 16, kMost = 8192;
  if (options.resolution < kStep || options.resolution > kMost || options.resolution % kStep)
    throw bad_input("--resolution", fmt::format("is {}", options.resolution),
                    fmt::format("give a multiple of {} up to {}", kStep, kMost));
  if (!(options.max_upscale >= 1))
    throw bad_input("--max-upscale", fmt::format("is {}", options.max_upscale),
                    "give a number of 1 or more");
  if (line_that_is_not_utf8(options.trigger) != 0)
    throw bad_input("--trigger", "is not UTF-8 text", "give the word in UTF-8");
  if (!options.trigger.empty() && collapse_spaces(options.trigger).empty())
    throw bad_input("--trigger", "is blank", "give a word, or leave it out");
  std::error_code code;
  if (fs::status(options.pictures, code).type() == fs::file_type::not_found)
    throw bad_input(options.pictures.string(), "does not exist",
                    "give the folder of your pictures");
}

/// A picture on its way from its file to the dataset.
struct Piece {
  PreparedPicture picture;
  std::vector<Finding> findings;
  Measures measures;
  bool usable = false;
};

/// What the reader said about a picture, without the path before it.
Finding remark(const fs::path& path, const std::string& line) {
  const std::string prefix = path.string() + ": ";
  return {"file",
          {path.filename().string()},
          line.starts_with(prefix) ? line.substr(prefix.size()) : line,
          "if that is not what you want, save it as one JPEG or PNG in sRGB"};
}

}  // namespace

struct Preparation::State {
  Options options;
  std::function<bool()> stop;
  OutputFolder output;
  CaptionSource source;
  CropFile crops;
  Report report;

  State(const Options& o, std::function<bool()> s)
      : options(o), stop(std::move(s)), output(o.pictures, o.output) {}

  bool stopped() const { return stop && stop(); }
  std::vector<Piece> list();
  void look(Piece& piece, SubjectFinder& finder) const;
  Size size_for(Size shape) const;
  CropEntry choose(const std::string& file, const Picture& picture, SubjectFinder& finder) const;
  bool large_enough(Piece& piece) const;
  bool read_own_caption(Piece& piece) const;
  void judge(std::vector<Piece>& pieces);
  void check_word();
};

/// The pictures by name, each with the name that it gets.
std::vector<Piece> Preparation::State::list() {
  Findings found;
  FolderOptions folder;
  folder.path = options.pictures;
  const Listing listing = list_folder(folder, found);
  throw_problems(found.problems);
  for (const std::string& line : found.warnings) report.notes.push_back(line);
  for (const std::string& line : found.notes) report.notes.push_back(line);
  std::vector<std::string> files;
  for (const fs::path& path : listing.pictures) files.push_back(path.filename().string());
  for (const auto& [file, point] : options.focus)
    if (std::find(files.begin(), files.end(), file) == files.end())
      throw bad_input("--focus " + file, "names no picture of " + options.pictures.string(),
                      "give the name of a file, as in --focus cat.jpg=1200,800");
  const std::vector<std::string> written = written_names(files);
  std::vector<Piece> pieces(files.size());
  for (size_t i = 0; i < files.size(); ++i) {
    pieces[i].picture.file = files[i];
    pieces[i].picture.written = written[i];
  }
  return pieces;
}

/// What a picture, or a box, of this shape becomes.
Size Preparation::State::size_for(Size shape) const {
  const int64_t side = options.resolution;
  if (!options.buckets) return {static_cast<int>(side), static_cast<int>(side)};
  return nearest_bucket(shape, side, std::min(side, DatasetOptions{}.bucket_step));
}

/// The box that a person gave, or where the subject is.
CropEntry Preparation::State::choose(const std::string& file, const Picture& picture,
                                     SubjectFinder& finder) const {
  const auto known = crops.find(file);
  CropEntry entry = known == crops.end() ? CropEntry{} : known->second;
  if (const auto focus = options.focus.find(file); focus != options.focus.end())
    entry = {{}, {}, focus->second, ""};
  if (entry.by_hand()) {
    if (entry.box->x + entry.box->width > picture.width ||
        entry.box->y + entry.box->height > picture.height)
      throw bad_input(output.crop_file().string(),
                      fmt::format("\"{}\" has a box that leaves its picture of {}x{} pixels", file,
                                  picture.width, picture.height),
                      "mend the box, or remove the entry to have the subject found again");
    entry.found_by = word_for(FoundBy::you);
    return entry;
  }
  const SubjectCrop crop =
      finder.find(picture, entry.focus, size_for({picture.width, picture.height}));
  return {crop.box, crop.box, entry.focus, std::string(word_for(crop.found_by))};
}

/// Whether the crop has pixels enough.
bool Preparation::State::large_enough(Piece& piece) const {
  const PreparedPicture& p = piece.picture;
  const double factor = enlargement(p.used, p.size);
  if (factor <= options.max_upscale) return true;
  piece.findings.push_back(
      {"small",
       {p.file},
       fmt::format("its {}x{} pixels are too few: they would be enlarged {:.1f} times to {}x{}",
                   p.used.width, p.used.height, factor, p.size.width, p.size.height),
       "use a larger picture, a larger box in crop.json or a smaller --resolution",
       true});
  return false;
}

/// What is there already: in the dataset, else beside the picture.
bool Preparation::State::read_own_caption(Piece& piece) const {
  PreparedPicture& p = piece.picture;
  std::error_code code;
  const fs::path own = output.caption_file(p.written);
  try {
    if (!options.overwrite_captions && fs::exists(own, code)) {
      p.caption = read_caption(own);
    } else if (const auto there = source.captions(options.pictures / p.file, /*by_line=*/false)) {
      p.caption = there->front();
    }
    // Of the trigger word alone, as an earlier preparation leaves it, nobody would call it a
    // caption.
    if (p.caption == collapse_spaces(options.trigger)) p.caption.clear();
    return true;
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::internal) throw;
    const std::string reason = "its caption " + error.where() + " " + error.message();
    piece.findings.push_back({"caption", {p.file}, reason, error.hint(), true});
    return false;
  }
}

/// Reads, crops and resizes one picture into the folder's workshop.
void Preparation::State::look(Piece& piece, SubjectFinder& finder) const {
  PreparedPicture& p = piece.picture;
  const fs::path path = options.pictures / p.file;
  if (line_that_is_not_utf8(p.file) != 0) {
    piece.findings.push_back(
        {"broken", {p.file}, "its name is not UTF-8", "rename the file", true});
    return;
  }
  if (!read_own_caption(piece)) return;
  std::vector<std::string> remarks;
  Picture picture;
  try {
    picture = read_picture(path, {.background = options.background, .warnings = &remarks});
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::internal) throw;
    piece.findings.push_back({"broken", {p.file}, error.message(), error.hint(), true});
    return;
  }
  for (const std::string& line : remarks) piece.findings.push_back(remark(path, line));
  p.source = {picture.width, picture.height};
  p.crop = choose(p.file, picture, finder);
  p.size = size_for({p.crop.box->width, p.crop.box->height});
  p.used = fit_box(*p.crop.box, p.size, p.source);
  if (!large_enough(piece)) return;
  const Picture crop = resize(picture, p.used, p.size);
  piece.measures = measure(picture, crop);
  write_png(output.workshop() / p.written, crop);
  piece.usable = true;
}

/// What can be used and what is wrong, of each picture and of all.
void Preparation::State::judge(std::vector<Piece>& pieces) {
  std::vector<Candidate> candidates;
  for (Piece& piece : pieces) {
    std::move(piece.findings.begin(), piece.findings.end(), std::back_inserter(report.findings));
    if (!piece.usable) continue;
    const PreparedPicture& p = piece.picture;
    candidates.push_back({options.pictures / p.file, p.source, p.used, p.size, piece.measures});
    report.pictures.push_back(std::move(piece.picture));
  }
  const std::vector<Finding> found = check(candidates);
  report.findings.insert(report.findings.end(), found.begin(), found.end());
  if (!options.trigger.empty()) check_word();
}

void Preparation::State::check_word() {
  const caption::TriggerReport word = caption::check_trigger(options.trigger);
  report.trigger_split = word.split();
  if (!word.fault().empty())
    report.findings.push_back({"trigger", {}, word.fault(), word.remedy()});
}

Preparation::Preparation(const Options& options, std::function<bool()> stop) {
  check_options(options);
  state_ = std::make_unique<State>(options, std::move(stop));
}

Preparation::~Preparation() = default;

const Report& Preparation::look() {
  State& s = *state_;
  s.crops = read_crop_file(s.output.crop_file());
  std::vector<Piece> pieces = s.list();
  s.source = CaptionSource(s.options.pictures);
  std::atomic<size_t> done = 0;
  parallel_for(static_cast<int64_t>(pieces.size()), 1, [&](int64_t first, int64_t last) {
    SubjectFinder finder;
    for (int64_t i = first; i < last && !s.stopped(); ++i) {
      s.look(pieces[static_cast<size_t>(i)], finder);
      show_progress(fmt::format("picture {} of {}", ++done, pieces.size()));
    }
  });
  show_progress("");
  if (s.stopped()) return s.report;
  s.judge(pieces);
  if (s.report.pictures.empty()) {
    const Finding& first = s.report.findings.front();
    throw bad_input(s.options.pictures.string(),
                    fmt::format("holds no picture that can be used: {}: {}",
                                shown_name(first.pictures.front()), first.reason),
                    first.remedy);
  }
  return s.report;
}

const Report& Preparation::write() {
  State& s = *state_;
  std::vector<caption::CaptionedPicture> captioned;
  for (const PreparedPicture& p : s.report.pictures)
    captioned.push_back({s.output.workshop() / p.written, p.caption});
  caption::caption_pictures(s.options.caption, captioned, s.options.overwrite_captions, s.stop);

  CropFile crops;
  for (const PreparedPicture& p : s.report.pictures) crops[p.file] = p.crop;
  write_crop_file(s.output.crop_file(), crops);
  for (size_t i = 0; i < captioned.size(); ++i) {
    PreparedPicture& p = s.report.pictures[i];
    s.output.publish(p.written);
    p.caption = s.options.trigger.empty() ? captioned[i].caption
                                          : put_trigger(captioned[i].caption, s.options.trigger);
    if (!p.caption.empty())
      write_file_atomically(s.output.caption_file(p.written), p.caption + "\n");
  }
  write_contact_sheet(s.options.output, s.report);
  write_page(s.options.output, s.report);
  return s.report;
}

}  // namespace fluxlora::prepare
