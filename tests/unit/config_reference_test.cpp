// SPDX-License-Identifier: Apache-2.0
// docs/config.md says what the table of keys says. FLUXLORA_UPDATE_DOCS=1 writes it anew.
#include <cstdlib>
#include <filesystem>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "config/config.h"
#include "config/keys.h"

namespace fluxlora::config {
namespace {

const std::filesystem::path kPage = std::filesystem::path(FLUXLORA_SOURCE_DIR) / "docs/config.md";

TEST(ConfigReference, ThePageFitsTheTable) {
  if (std::getenv("FLUXLORA_UPDATE_DOCS")) {
    write_file_atomically(kPage, std::string_view(reference_page()));
    GTEST_SKIP() << kPage << " was written";
  }
  EXPECT_EQ(read_text(kPage), reference_page())
      << "write it anew: FLUXLORA_UPDATE_DOCS=1 build/config_reference_test";
}

TEST(ConfigReference, EveryKeyIsThereWithAMeaningAndASource) {
  std::set<std::string> names;
  const auto check = [&](const auto& key) {
    EXPECT_TRUE(names.insert(key.full()).second) << key.full() << " is there twice";
    EXPECT_FALSE(key.meaning.empty()) << key.full();
    EXPECT_TRUE(!key.source.empty() || key.absent.starts_with("must be given")) << key.full();
    EXPECT_THAT(reference_page(), ::testing::HasSubstr("| `" + key.name + "` |"));
  };
  for (const RunKey& key : run_keys()) check(key);
  for (const FolderKey& key : folder_keys()) check(key);
  EXPECT_GT(names.size(), 40u);
}

}  // namespace
}  // namespace fluxlora::config
