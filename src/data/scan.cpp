// SPDX-License-Identifier: Apache-2.0
#include "data/scan.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <string_view>

#include <fmt/format.h>

#include "base/hash.h"
#include "base/parallel.h"
#include "data/caption.h"
#include "data/picture.h"

namespace fluxlora {

namespace fs = std::filesystem;

namespace {

constexpr std::array<std::string_view, 12> kPictureEndings{".jpg",  ".jpeg", ".png",  ".webp",
                                                           ".tif",  ".tiff", ".avif", ".heic",
                                                           ".heif", ".jxl",  ".jp2",  ".gif"};

std::string lower_ending(const fs::path& path) {
  std::string ending = path.extension().string();
  for (char& c : ending) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return ending;
}

/// What `fluxlora prepare` leaves beside the pictures of a dataset.
bool made_by_prepare(const fs::path& path) {
  const std::string name = path.filename().string();
  if (name == "crop.json" || name == "dataset.html") return true;
  std::error_code code;
  return name == "contact_sheet.png" && fs::exists(path.parent_path() / "crop.json", code);
}

bool named_as_picture(const fs::path& path) {
  const std::string ending = lower_ending(path);
  return std::find(kPictureEndings.begin(), kPictureEndings.end(), ending) != kPictureEndings.end();
}

/// "a, b, c and 4 more".
std::string some_of(const std::vector<std::string>& names) {
  constexpr size_t kShown = 3;
  std::string text;
  for (size_t i = 0; i < std::min(kShown, names.size()); ++i) text += (i ? ", " : "") + names[i];
  if (names.size() > kShown) text += fmt::format(" and {} more", names.size() - kShown);
  return text;
}

/// The visible names of a folder by their bytes; nothing after a problem.
std::optional<std::vector<fs::path>> sorted_entries(const fs::path& folder, Findings& findings) {
  std::error_code code;
  const fs::file_status status = fs::status(folder, code);
  if (status.type() == fs::file_type::not_found) {
    findings.problems.push_back(bad_input(folder.string(), "does not exist",
                                          "set dataset.path to the folder of your pictures"));
    return std::nullopt;
  }
  if (code == std::errc::too_many_symbolic_link_levels) {
    findings.problems.push_back(bad_input(folder.string(), "is a link that leads in a circle",
                                          "give the folder that holds your pictures"));
    return std::nullopt;
  }
  if (!code && status.type() != fs::file_type::directory) {
    findings.problems.push_back(
        bad_input(folder.string(), "is not a folder", "give the folder that holds your pictures"));
    return std::nullopt;
  }
  std::vector<fs::path> entries;
  fs::directory_iterator names(folder, code);
  if (!code) {
    for (const fs::directory_iterator end; names != end && !code; names.increment(code)) {
      if (!names->path().filename().string().starts_with('.')) entries.push_back(names->path());
    }
  }
  if (code) {
    findings.problems.push_back(
        environment_error(folder.string(), "may not be read: " + code.message(),
                          "give yourself the right to read it (chmod u+rx)"));
    return std::nullopt;
  }
  std::sort(entries.begin(), entries.end(), [](const fs::path& a, const fs::path& b) {
    return a.filename().native() < b.filename().native();
  });
  return entries;
}

/// Captions without a picture, and pictures that share one caption.
void check_stems(const std::string& folder, const std::vector<fs::path>& pictures,
                 const std::vector<fs::path>& texts, Findings& findings) {
  std::map<std::string, std::vector<std::string>> by_stem;
  for (const fs::path& picture : pictures) {
    by_stem[picture.stem().string()].push_back(picture.filename().string());
  }
  std::set<std::string> captions;
  std::vector<std::string> without;
  for (const fs::path& text : texts) {
    captions.insert(text.stem().string());
    if (!by_stem.count(text.stem().string())) without.push_back(text.filename().string());
  }
  if (!without.empty()) {
    findings.warnings.push_back(folder + ": no picture belongs to " + some_of(without));
  }
  for (const auto& [stem, names] : by_stem) {
    if (names.size() < 2) continue;
    findings.warnings.push_back(
        fmt::format("{}: {} {}", folder, some_of(names),
                    captions.count(stem) ? fmt::format("share the caption {}.txt", stem)
                                         : "have one name, are they one picture in two formats?"));
  }
}

/// kohya's sd-scripts read "10_mascot" as ten repeats.
void note_repeats_in_name(const FolderOptions& folder, Findings& findings) {
  const std::string name = folder.path.filename().string();
  const size_t digits = name.find_first_not_of("0123456789");
  if (folder.repeats != 1 || digits == 0 || digits == std::string::npos || digits > 4 ||
      name[digits] != '_')
    return;
  findings.notes.push_back(
      fmt::format("{}: its name asks for {} repeats in kohya's scripts; here repeats = {} would",
                  folder.path.string(), name.substr(0, digits), name.substr(0, digits)));
}

}  // namespace

size_t count_pictures(const fs::path& folder) {
  Findings ignored;
  const auto entries = sorted_entries(folder, ignored);
  if (!entries) return 0;
  return static_cast<size_t>(std::count_if(entries->begin(), entries->end(), named_as_picture));
}

void check_folder_options(const FolderOptions& folder, Findings& findings) {
  const auto problem = [&](std::string what, std::string hint) {
    findings.problems.push_back(
        bad_input(folder.path.empty() ? "dataset.folders" : folder.path.string(), std::move(what),
                  std::move(hint)));
  };
  if (folder.path.empty()) problem("one of the folders has no path", "set path for each of them");
  if (folder.repeats < 1 || folder.repeats > 1000) {
    problem(fmt::format("repeats is {}", folder.repeats), "give a number from 1 to 1000");
  }
  if (!std::isfinite(folder.weight) || folder.weight <= 0) {
    problem(fmt::format("weight is {}", folder.weight),
            "give a number above 0; leave the folder out if it shall not count");
  }
  if (folder.generate < 0 || folder.generate > 9999)
    problem(fmt::format("generate is {}", folder.generate), "give a number from 0 to 9999");
  if (folder.generate > 0 && !folder.regularisation)
    problem("generate without regularisation",
            "set regularisation = true: the model cannot paint its subject yet");
  if (folder.generate > 0 && collapse_spaces(folder.caption).empty())
    problem("generate without a caption",
            "set caption to what shall be painted, such as \"a dog\"");
  if (folder.keep_tags < 0)
    problem(fmt::format("keep_tags is {}", folder.keep_tags), "give 0 or more");
  if (folder.caption_forms < 1 || folder.caption_forms > 64)
    problem(fmt::format("caption_forms is {}", folder.caption_forms), "give a number from 1 to 64");
  if (const auto share = folder.caption_dropout; share && !(*share >= 0 && *share <= 1))
    problem(fmt::format("caption_dropout is {}", *share), "give a share from 0 to 1, such as 0.05");
  if (!(folder.unmasked_weight >= 0 && folder.unmasked_weight < 1)) {
    problem(fmt::format("unmasked_weight is {}", folder.unmasked_weight),
            "give a number from 0 to below 1");
  }
  std::error_code code;
  if (folder.mask.empty()) return;
  if (folder.alpha_mask) problem("has both mask and alpha_mask", "keep one of them");
  if (!fs::is_directory(folder.mask, code)) {
    findings.problems.push_back(
        bad_input(folder.mask.string(), "is not a folder of masks",
                  "set mask to a folder of files that are called as the pictures are"));
  }
}

std::optional<fs::path> mask_file(const fs::path& folder, const fs::path& picture) {
  std::error_code code;
  for (const std::string_view ending : kPictureEndings) {
    fs::path path = folder / picture.filename();
    path.replace_extension(ending);
    // A link that leads nowhere is a mask too, one that cannot be read.
    if (fs::exists(fs::symlink_status(path, code))) return path;
  }
  return std::nullopt;
}

Listing list_folder(const FolderOptions& folder, Findings& findings) {
  const std::string name = folder.path.string();
  const auto entries = sorted_entries(folder.path, findings);
  if (!entries) return {};
  Listing listing;
  std::vector<fs::path> texts;
  std::vector<std::string> others, folders;
  note_repeats_in_name(folder, findings);
  std::set<std::string> stems;
  for (const fs::path& entry : *entries)
    if (named_as_picture(entry)) stems.insert(entry.stem().string());
  std::error_code code;
  for (const fs::path& entry : *entries) {
    if (made_by_prepare(entry)) continue;
    if (named_as_picture(entry)) {
      listing.pictures.push_back(entry);
    } else if (fs::is_directory(entry, code)) {
      folders.push_back(entry.filename().string());
    } else if (lower_ending(entry) == ".txt" || lower_ending(entry) == ".caption") {
      texts.push_back(entry);
    } else if (lower_ending(entry) == ".json" && stems.contains(entry.stem().string())) {
      continue;
    } else if (entry.filename() != "metadata.jsonl") {
      others.push_back(entry.filename().string());
    }
  }
  if (!folders.empty()) {
    findings.notes.push_back(name + ": folders inside are not read: " + some_of(folders));
  }
  if (!others.empty()) {
    findings.notes.push_back(name + ": not pictures, left aside: " + some_of(others));
  }
  if (entries->empty()) {
    findings.problems.push_back(
        bad_input(name, "is empty", "put 10 to 30 pictures of the subject into it"));
  } else if (listing.pictures.empty()) {
    findings.problems.push_back(bad_input(
        name, "holds no picture",
        folders.empty() ? "put JPEG, PNG or WebP files into it"
                        : "folders inside are not read: name each under [[dataset.folders]]"));
  }
  check_stems(name, listing.pictures, texts, findings);
  return listing;
}

void check_listed(const fs::path& folder, const std::vector<std::string>& names,
                  const Listing& listing, Findings& findings) {
  std::set<std::string> pictures;
  for (const fs::path& picture : listing.pictures) pictures.insert(picture.filename().string());
  std::vector<std::string> without;
  for (const std::string& name : names)
    if (!pictures.contains(name)) without.push_back(name);
  if (without.empty()) return;
  findings.warnings.push_back(folder.string() + ": no picture belongs to " + some_of(without) +
                              " in metadata.jsonl");
}

std::vector<Checked> check_pictures(const std::vector<fs::path>& pictures, Findings& findings) {
  struct Outcome {
    Checked checked;
    std::optional<Error> problem;
    std::vector<std::string> warnings;
  };
  std::vector<Outcome> outcomes(pictures.size());
  parallel_for(static_cast<int64_t>(pictures.size()), 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      Outcome& outcome = outcomes[static_cast<size_t>(i)];
      const fs::path& path = pictures[static_cast<size_t>(i)];
      try {
        ReadOptions options;
        options.warnings = &outcome.warnings;
        const Picture picture = read_picture(path, options);
        outcome.checked = {path, "", {picture.width, picture.height}};
      } catch (const Error& error) {
        if (error.kind() == ErrorKind::internal) throw;
        outcome.problem = error;
      }
    }
  });
  std::vector<Checked> checked;
  for (Outcome& outcome : outcomes) {
    findings.warnings.insert(findings.warnings.end(), outcome.warnings.begin(),
                             outcome.warnings.end());
    if (outcome.problem) {
      findings.problems.push_back(*outcome.problem);
      continue;
    }
    // Not in the threads of the pool: at the program's end libcrypto may forget what they hold.
    outcome.checked.hash = sha256_of_file(outcome.checked.path);
    checked.push_back(std::move(outcome.checked));
  }
  return checked;
}

void throw_problems(const std::vector<Error>& problems) {
  if (problems.empty()) return;
  const Error& first = problems.front();
  if (problems.size() == 1) throw first;
  std::vector<std::string> others;
  for (size_t i = 1; i < problems.size(); ++i) {
    const std::string where = fs::path(problems[i].where()).filename().string();
    others.push_back(fmt::format("{} {}", where, problems[i].message()));
  }
  const std::string rest = fmt::format("{} more problem{}: {}", others.size(),
                                       others.size() == 1 ? "" : "s", some_of(others));
  throw Error(first.kind(), first.where(), first.message(), first.hint() + " (" + rest + ")");
}

}  // namespace fluxlora
