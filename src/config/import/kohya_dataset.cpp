// SPDX-License-Identifier: Apache-2.0
// docs/config_README-en.md of kohya-ss/sd-scripts: general, datasets, subsets, each over the one
// before.
#include "config/import/kohya_dataset.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "config/import/meanings.h"

namespace fluxlora::config {

namespace fs = std::filesystem;

namespace {

/// One subset with everything that holds for it.
struct Subset {
  ForeignList options;
  std::string text(const char* name, const std::string& otherwise = "") const {
    const Foreign* option = find_option(options, name);
    return option ? option->text() : otherwise;
  }
  double number(const char* name, double otherwise) const {
    const Foreign* option = find_option(options, name);
    return option ? number_of(*option) : otherwise;
  }
};

std::vector<Subset> subsets_of(const ForeignTree& tree) {
  ForeignList general;
  for (Foreign option : tree.root.options) {
    // Without its table an option holds for the only data set.
    option.name = option.name.substr(option.name.rfind('.') + 1);
    general.push_back(std::move(option));
  }
  std::vector<Subset> subsets;
  for (const ForeignTree::Branch& dataset : tree.root.branches) {
    const ForeignList own = overlaid(general, dataset.options);
    for (const ForeignTree::Branch& subset : dataset.branches)
      subsets.push_back({overlaid(own, subset.options)});
  }
  return subsets;
}

/// The folders "10_sks dog" in a folder: ten repeats of "sks dog".
void add_named_folders(const fs::path& root, const ForeignList& all, bool regularisation,
                       std::vector<Subset>& subsets) {
  std::error_code code;
  std::vector<fs::path> names;
  for (const auto& entry : fs::directory_iterator(root, code))
    if (entry.is_directory(code)) names.push_back(entry.path());
  std::sort(names.begin(), names.end());
  for (const fs::path& path : names) {
    const std::string name = path.filename().string();
    const size_t digits = name.find_first_not_of("0123456789");
    if (digits == 0 || digits == std::string::npos || name[digits] != '_') continue;
    const std::string where = path.string();
    ForeignList own{{"image_dir", {where}, where},
                    {"num_repeats", {name.substr(0, digits)}, where},
                    {"class_tokens", {name.substr(digits + 1)}, where}};
    if (regularisation) own.push_back({"is_reg", {"true"}, where});
    subsets.push_back({overlaid(all, own)});
  }
}

/// 512, [512, 768] or "512,768" as the side of a square of that area.
int64_t side_of(const Foreign& resolution) {
  std::vector<double> sides;
  std::string text = resolution.text();
  std::replace(text.begin(), text.end(), ',', ' ');
  for (size_t at = text.find_first_not_of(' '); at != std::string::npos && at < text.size();) {
    const size_t end = std::min(text.find(' ', at), text.size());
    sides.push_back(number_of({"resolution", {text.substr(at, end - at)}, resolution.where}));
    at = text.find_first_not_of(' ', end);
  }
  if (sides.empty() || sides.size() > 2 || !(sides[0] >= 1) || !(sides.back() >= 1) ||
      !(sides[0] < 1e5) || !(sides.back() < 1e5))
    throw bad_input(resolution.where, fmt::format("resolution is \"{}\"", resolution.text()),
                    "give one or two numbers of pixels");
  return std::llround(std::sqrt(sides[0] * sides.back()));
}

/// Sets a folder for each subset; equal ones at several sizes are one folder.
std::vector<std::vector<int64_t>> add_folders(Translator& to, const std::vector<Subset>& subsets) {
  std::vector<std::vector<int64_t>> sides;
  auto& folders = to.options().dataset.folders;
  for (const Subset& subset : subsets) {
    FolderOptions folder;
    folder.path = to.resolved(subset.text("image_dir"));
    const double repeats = subset.number("num_repeats", 1) * subset.number("dataset_repeats", 1);
    if (!(repeats >= 1) || !(repeats <= 1000))
      throw bad_input(folder.path.string(), fmt::format("num_repeats is {}", repeats),
                      "give a number from 1 to 1000");
    folder.repeats = std::llround(repeats);
    folder.caption = subset.text("class_tokens");
    folder.trigger = "";
    folder.regularisation = is_on(find_option(subset.options, "is_reg"));
    if (folder.regularisation) folder.weight = subset.number("prior_loss_weight", 1);
    folder.flip = is_on(find_option(subset.options, "flip_aug"));
    // --masked_loss says whether, the other two where the masks are.
    const bool alpha = is_on(find_option(subset.options, "alpha_mask"));
    const bool masked = is_on(find_option(subset.options, "masked_loss")) || to.flag("masked_loss");
    folder.alpha_mask = masked && alpha;
    if (masked && !alpha && !subset.text("conditioning_data_dir").empty())
      folder.mask = to.resolved(subset.text("conditioning_data_dir"));
    const Foreign* resolution = find_option(subset.options, "resolution");
    const auto same = std::find_if(folders.begin(), folders.end(), [&](const FolderOptions& other) {
      return other.path == folder.path && other.repeats == folder.repeats &&
             other.caption == folder.caption && other.regularisation == folder.regularisation &&
             other.flip == folder.flip;
    });
    const auto at = static_cast<size_t>(same - folders.begin());
    if (same == folders.end()) {
      folders.push_back(folder);
      sides.emplace_back();
    }
    if (resolution) sides[at].push_back(side_of(*resolution));
  }
  return sides;
}

void set_captions(Translator& to, const Subset& first) {
  Foreign dropout{"caption_dropout_rate", {"0"}, "kohya's default"};
  if (const Foreign* given = find_option(first.options, "caption_dropout_rate")) dropout = *given;
  to.set("train.caption_dropout", dropout.text(), dropout);
  Foreign ending{"caption_extension", {".caption"}, "kohya's default"};
  for (const char* name : {"caption_extention", "caption_extension"})
    if (const Foreign* given = find_option(first.options, name)) ending = *given;
  if (ending.text() != ".txt" && ending.text() != "txt")
    to.list(ending, Fate::lost, "read captions from files with this ending; fluxlora reads .txt");
}

/// The word that calls the subject: kohya's caption of pictures without one, or the file's name.
void set_trigger(Translator& to, const std::vector<Subset>& subsets) {
  for (const Subset& subset : subsets) {
    const Foreign* tokens = find_option(subset.options, "class_tokens");
    if (tokens && !is_on(find_option(subset.options, "is_reg")))
      return to.set("subject.trigger", tokens->text(), *tokens);
  }
  for (const char* name : {"metadata_trigger_phrase", "output_name"})
    if (const Foreign* given = to.take(name))
      return to.set("subject.trigger", given->text(), *given);
}

}  // namespace

void set_kohya_folders(Translator& to, const ForeignList& all, const fs::path& folder) {
  std::vector<Subset> subsets;
  if (const Foreign* file = to.take("dataset_config")) {
    fs::path path = file->text();
    std::error_code code;
    if (!fs::exists(path, code) && fs::exists(folder / path, code)) path = folder / path;
    subsets = subsets_of(read_foreign_toml(path));
    if (subsets.empty())
      throw bad_input(path.string(), "has no [[datasets.subsets]]",
                      "name the folders of the pictures there");
    for (const Subset& subset : subsets) to.list_rest(subset.options, "");
    // Pictures that are all held back are not trained.
    std::erase_if(subsets, [](const Subset& s) { return s.number("validation_split", 0) >= 1; });
    if (subsets.empty())
      throw bad_input(path.string(), "holds all pictures back for validation",
                      "lower validation_split of one of the datasets");
    const Foreign* batch = find_option(subsets.front().options, "batch_size");
    if (batch) to.set("train.batch_size", batch->text(), *batch);
    for (const Subset& subset : subsets) {
      const Foreign* other = find_option(subset.options, "batch_size");
      if (other && batch && other->text() != batch->text())
        to.list(*other, Fate::lost,
                fmt::format("hold for one data set; all get batches of {}", batch->text()));
    }
  } else {
    if (const Foreign* root = to.take("train_data_dir"))
      add_named_folders(to.resolved(root->text()), all, false, subsets);
    if (const Foreign* root = to.take("reg_data_dir"))
      add_named_folders(to.resolved(root->text()), all, true, subsets);
    if (subsets.empty())
      if (const Foreign* root = to.take("train_data_dir"))
        throw bad_input(root->where, fmt::format("{} has no folders such as 10_name", root->text()),
                        "kohya takes repeats and caption from the names of the folders within");
  }
  const auto sides = add_folders(to, subsets);
  if (subsets.empty()) return;
  set_captions(to, subsets.front());
  set_trigger(to, subsets);
  const Foreign* buckets = find_option(subsets.front().options, "enable_bucket");
  if (is_on(buckets)) to.set("dataset.buckets", "true", *buckets);
  const Foreign* step = find_option(subsets.front().options, "bucket_reso_steps");
  if (is_on(buckets) && step) to.set("dataset.bucket_step", step->text(), *step);
  const Foreign* resolution = find_option(subsets.front().options, "resolution");
  set_resolutions(to, sides, resolution ? *resolution : Foreign{"resolution", {}, "kohya"});
}

}  // namespace fluxlora::config
