// SPDX-License-Identifier: Apache-2.0
#include "prepare/checks.h"

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include <fmt/format.h>

#include "base/hash.h"
#include "base/parallel.h"

namespace fluxlora::prepare {

namespace fs = std::filesystem;

namespace {

constexpr size_t kFew = 10, kMany = 30;
/// Photographs that are in focus measure 400 and more, after a Gaussian blur of 1.5 pixels below
/// 50, drawings after one of 2 (scikit-image's pictures and the sample dataset).
constexpr double kSharp = 50;
constexpr int kDark = 64, kBright = 192, kContrast = 24;  // grey levels
constexpr double kLongest = 2.5;                          // times the short side
constexpr int kSameLook = 8;      // of 64 signs: resized, recompressed, or one of a burst
constexpr int kSamePose = 16;     // four deviations below what chance gives
constexpr double kSameWall = 12;  // of 255
constexpr double kMost = 0.6;     // of the pictures
constexpr size_t kLeastGroup = 5;

void check_number(const std::vector<Candidate>& pictures, std::vector<Finding>& findings) {
  const size_t count = pictures.size();
  if (count < kFew) {
    findings.push_back(
        {"few",
         {},
         fmt::format("{} picture{} of the subject: with fewer than {} the LoRA tends "
                     "to repeat them",
                     count, count == 1 ? "" : "s", kFew),
         fmt::format("add some: {} to {} are best", kFew, kMany)});
  } else if (count > kMany) {
    findings.push_back(
        {"many",
         {},
         fmt::format("{} pictures of the subject: more than {} rarely help", count, kMany),
         "choose the best of them"});
  }
}

void check_size(const Candidate& p, std::vector<Finding>& findings) {
  const double factor = enlargement(p.used, p.size);
  if (factor <= 1) return;
  findings.push_back({"small",
                      {p.file()},
                      fmt::format("its {}x{} pixels are enlarged {:.1f} times to {}x{}",
                                  p.used.width, p.used.height, factor, p.size.width, p.size.height),
                      "use a larger picture, a larger box or a smaller resolution"});
}

void check_shape(const Candidate& p, std::vector<Finding>& findings) {
  const double longer = std::max(p.source.width, p.source.height);
  const double shorter = std::min(p.source.width, p.source.height);
  if (longer / shorter <= kLongest) return;
  const double shown = double(p.used.width) * p.used.height / (longer * shorter);
  findings.push_back(
      {"shape",
       {p.file()},
       fmt::format("is {:.1f} times as {} as {}: the crop shows {:.0f} % of it", longer / shorter,
                   p.source.width > p.source.height ? "wide" : "high",
                   p.source.width > p.source.height ? "high" : "wide", 100 * shown),
       "look at its crop, and cut it by hand where that is not the subject"});
}

void check_light(const Candidate& p, std::vector<Finding>& findings) {
  const Measures& m = p.measures;
  const char* const remedy = "correct the exposure, or use another picture";
  if (m.light < kDark) {
    findings.push_back({"dark",
                        {p.file()},
                        fmt::format("is very dark: nearly all is below {} of 255", m.light),
                        remedy});
  } else if (m.dark > kBright) {
    findings.push_back({"bright",
                        {p.file()},
                        fmt::format("is very bright: nearly all is above {} of 255", m.dark),
                        remedy});
  } else if (m.light - m.dark < kContrast) {
    findings.push_back({"flat",
                        {p.file()},
                        fmt::format("has hardly any contrast: nearly all lies between {} and {} of "
                                    "255",
                                    m.dark, m.light),
                        remedy});
  }
}

void check_focus(const Candidate& p, std::vector<Finding>& findings) {
  // What is enlarged is soft in any case, and has a finding for that.
  if (p.measures.sharpness >= kSharp || enlargement(p.used, p.size) > 1) return;
  findings.push_back({"blurred",
                      {p.file()},
                      fmt::format("is blurred: sharpness {:.0f}, and {:.0f} or more is sharp",
                                  p.measures.sharpness, kSharp),
                      "use a sharper picture, or keep it if it must look so"});
}

using Alike = std::function<bool(const Candidate&, const Candidate&)>;

/// The pictures that hang together by pairs that are alike, groups of two or more.
std::vector<std::vector<size_t>> groups(const std::vector<Candidate>& pictures,
                                        const Alike& alike) {
  std::vector<std::vector<size_t>> found;
  std::vector<bool> taken(pictures.size());
  for (size_t first = 0; first < pictures.size(); ++first) {
    if (taken[first]) continue;
    std::vector<size_t> group{first};
    for (size_t i = 0; i < group.size(); ++i)
      for (size_t other = first + 1; other < pictures.size(); ++other)
        if (!taken[other] && alike(pictures[group[i]], pictures[other])) {
          taken[other] = true;
          group.push_back(other);
        }
    std::sort(group.begin(), group.end());
    if (group.size() > 1) found.push_back(group);
  }
  return found;
}

std::vector<std::string> files(const std::vector<Candidate>& pictures,
                               const std::vector<size_t>& chosen) {
  std::vector<std::string> names;
  for (const size_t i : chosen) names.push_back(pictures[i].file());
  return names;
}

/// Whether all files of a group have the same bytes.
bool same_bytes(const std::vector<Candidate>& pictures, const std::vector<size_t>& group) {
  std::set<uintmax_t> sizes;
  std::error_code code;
  for (const size_t i : group) sizes.insert(fs::file_size(pictures[i].path, code));
  if (sizes.size() > 1) return false;
  std::set<std::string> hashes;
  for (const size_t i : group) hashes.insert(sha256_of_file(pictures[i].path));
  return hashes.size() == 1;
}

void check_duplicates(const std::vector<Candidate>& pictures, std::vector<Finding>& findings) {
  const auto alike = [](const Candidate& a, const Candidate& b) {
    return hash_distance(a.measures.whole, b.measures.whole) <= kSameLook &&
           border_distance(a.measures, b.measures) <= kSameWall;
  };
  for (const std::vector<size_t>& group : groups(pictures, alike)) {
    if (same_bytes(pictures, group)) {
      findings.push_back({"duplicate", files(pictures, group), "are the same picture",
                          "keep one of them: it would count several times"});
    } else {
      findings.push_back({"similar", files(pictures, group), "look nearly the same",
                          "keep the best of them: what is common to all is learned first"});
    }
  }
}

/// The largest set of pictures that are all like one of them.
std::vector<size_t> largest_family(const std::vector<Candidate>& pictures, const Alike& alike) {
  std::vector<size_t> best;
  for (const Candidate& middle : pictures) {
    std::vector<size_t> family;
    for (size_t i = 0; i < pictures.size(); ++i)
      if (alike(middle, pictures[i])) family.push_back(i);
    if (family.size() > best.size()) best = family;
  }
  return best;
}

void check_variety(const std::vector<Candidate>& pictures, std::vector<Finding>& findings) {
  const auto is_most = [&](const std::vector<size_t>& family) {
    return family.size() >= kLeastGroup &&
           static_cast<double>(family.size()) > kMost * static_cast<double>(pictures.size());
  };
  const auto same_wall = largest_family(pictures, [](const Candidate& a, const Candidate& b) {
    return border_distance(a.measures, b.measures) <= kSameWall;
  });
  if (is_most(same_wall))
    findings.push_back({"background", files(pictures, same_wall),
                        fmt::format("{} of {} pictures have the same background, which is learned "
                                    "with the subject",
                                    same_wall.size(), pictures.size()),
                        "take some in other places, or train with masks"});
  const auto same_pose = largest_family(pictures, [](const Candidate& a, const Candidate& b) {
    return hash_distance(a.measures.crop, b.measures.crop) <= kSamePose;
  });
  if (is_most(same_pose))
    findings.push_back({"pose", files(pictures, same_pose),
                        fmt::format("{} of {} pictures show the subject in the same way",
                                    same_pose.size(), pictures.size()),
                        "take some from other sides, nearer and farther"});
}

}  // namespace

std::vector<Finding> check(const std::vector<Candidate>& pictures) {
  std::vector<Finding> findings;
  check_number(pictures, findings);
  for (const Candidate& picture : pictures) {
    check_size(picture, findings);
    check_shape(picture, findings);
    check_light(picture, findings);
    check_focus(picture, findings);
  }
  check_duplicates(pictures, findings);
  check_variety(pictures, findings);
  return findings;
}

std::vector<Finding> check(const Dataset& dataset) {
  std::vector<Candidate> candidates;
  std::map<fs::path, size_t> places;
  for (const Example& e : dataset.examples) {
    if (e.regularisation) continue;
    const size_t place = places.emplace(e.path, candidates.size()).first->second;
    candidates.resize(places.size());
    candidates[place] = {e.path, e.source, e.box, e.size, {}};
  }
  parallel_for(static_cast<int64_t>(candidates.size()), 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      Candidate& c = candidates[static_cast<size_t>(i)];
      const Picture picture = read_picture(c.path);
      c.measures = measure(picture, resize(picture, c.used, c.size));
    }
  });
  return check(candidates);
}

}  // namespace fluxlora::prepare
