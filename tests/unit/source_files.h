// SPDX-License-Identifier: Apache-2.0
// The repository's own source files, for the tests that read them.
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

namespace fluxlora {

struct SourceFile {
  std::string path;  ///< relative to the repository, with '/'
  std::string text;
};

/// All files under the given folders whose extension is one of those given, in order of their
/// paths.
inline std::vector<SourceFile> source_files(const std::vector<std::string>& folders,
                                            const std::set<std::string>& extensions) {
  namespace fs = std::filesystem;
  const fs::path root = FLUXLORA_SOURCE_DIR;
  std::vector<SourceFile> files;
  for (const std::string& folder : folders) {
    if (!fs::exists(root / folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      if (!entry.is_regular_file() || !extensions.count(entry.path().extension().string()))
        continue;
      std::ifstream in(entry.path(), std::ios::binary);
      files.push_back({fs::relative(entry.path(), root).generic_string(),
                       {std::istreambuf_iterator<char>(in), {}}});
    }
  }
  std::ranges::sort(files, {}, &SourceFile::path);
  return files;
}

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

}  // namespace fluxlora
