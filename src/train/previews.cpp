// SPDX-License-Identifier: Apache-2.0
#include "train/previews.h"

#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "base/log.h"

namespace fluxlora::train {

Previews::Previews(Device& device, flux::Transformer& model, const ModelFiles& folder,
                   const Encoded& encoded, const RunOptions& options)
    : device_(device),
      model_(model),
      folder_(folder),
      encoded_(encoded),
      options_(options.sample),
      text_tokens_(options.model.text_tokens) {}

bool Previews::due(const RunOptions& options, int64_t step) {
  const int64_t every = options.sample.every;
  return every > 0 && (step % every == 0 || step == options.train.steps);
}

std::vector<std::string> Previews::paint(const RunPaths& paths, int64_t step,
                                         const std::function<bool()>& stop) {
  std::vector<HostTensor> latents;
  std::optional<eval::Painter> painter;
  painter.emplace(model_, folder_,
                  Size{static_cast<int>(options_.width), static_cast<int>(options_.height)},
                  text_tokens_);
  for (size_t i = 0; i < encoded_.samples.size(); ++i) {
    if (stop()) return {};
    show_progress(fmt::format("sample {} of {}", i + 1, encoded_.samples.size()));
    const HostTensor noise =
        eval::sample_noise(static_cast<uint64_t>(options_.seed) + i, painter->channels(),
                           painter->height(), painter->width());
    latents.push_back(
        painter->paint(*encoded_.samples[i], noise.view, options_.steps, options_.guidance));
  }
  painter.reset();  // before the decoder comes
  const std::vector<Picture> pictures = eval::decode(device_, folder_, latents);
  make_folder(paths.samples());
  FolderInTheMaking folder(paths.samples(step));
  for (size_t i = 0; i < pictures.size(); ++i)
    write_png(folder.path() / fmt::format("{:02}.png", i + 1), pictures[i]);
  folder.finish();
  return sample_files(paths.samples(step));
}

std::vector<std::string> sample_files(const std::filesystem::path& folder) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".png") files.push_back(entry.path().string());
  std::sort(files.begin(), files.end());
  return files;
}

void write_before_after(const RunPaths& paths, int64_t after) {
  const std::vector<int64_t> steps = step_folders(paths.samples());
  if (steps.empty() || steps.front() == after || !folder_exists(paths.samples(after))) return;
  std::vector<Picture> pictures;
  int columns = 0;
  for (const int64_t step : {steps.front(), after}) {
    for (const std::string& file : sample_files(paths.samples(step)))
      pictures.push_back(read_picture(file));
    if (!columns) columns = static_cast<int>(pictures.size());
  }
  if (!columns) return;
  GridOptions options;
  options.columns = columns;
  options.row_labels = {"before", fmt::format("after {} steps", after)};
  write_png(paths.before_after(), grid(pictures, options));
}

}  // namespace fluxlora::train
