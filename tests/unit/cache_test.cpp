// SPDX-License-Identifier: Apache-2.0
// The cache on disk: what comes back, what makes a key, damage, sharing.
#include "data/cache.h"

#include <cstring>
#include <set>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "unit/data_fixtures.h"

namespace fluxlora {
namespace {

CacheEntry made_up_entry(unsigned seed) {
  CacheEntry entry;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  HostTensor mean(DType::f32, {16, 4, 6}), ids(DType::i32, {9});
  for (int64_t i = 0; i < mean.view.size(); ++i) mean.view.as<float>()[i] = normal(random);
  for (int64_t i = 0; i < 9; ++i) ids.view.as<int32_t>()[i] = static_cast<int32_t>(random());
  entry.emplace("mean", std::move(mean));
  entry.emplace("ids", std::move(ids));
  return entry;
}

void expect_equal(const CacheEntry& a, const CacheEntry& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, tensor] : a) {
    ASSERT_TRUE(b.count(name)) << name;
    const Tensor& other = b.at(name).view;
    ASSERT_EQ(tensor.view.describe(), other.describe());
    EXPECT_EQ(std::memcmp(tensor.view.data(), other.data(), size_t(other.bytes())), 0) << name;
  }
}

class CacheTest : public DataTest {
 protected:
  const std::string key_ = text_key("t5", "a cat", "encoder", 64);
};

TEST_F(CacheTest, gives_back_what_was_stored) {
  Cache cache(folder() / "deep" / "cache");
  EXPECT_FALSE(cache.load(key_));
  EXPECT_FALSE(cache.contains(key_));
  cache.store(key_, made_up_entry(1));
  EXPECT_TRUE(cache.contains(key_));
  const auto entry = cache.load(key_);
  ASSERT_TRUE(entry);
  expect_equal(*entry, made_up_entry(1));
  EXPECT_EQ(cache.hits(), 1);
  EXPECT_EQ(cache.misses(), 1);
  EXPECT_TRUE(cache.notes().empty());
  EXPECT_EQ(cache.path(key_),
            folder() / "deep" / "cache" / key_.substr(0, 2) / (key_ + ".safetensors"));
}

TEST_F(CacheTest, computes_once) {
  int computed = 0;
  const auto compute = [&] {
    ++computed;
    return made_up_entry(2);
  };
  expect_equal(Cache(folder()).fetch(key_, compute), made_up_entry(2));
  expect_equal(Cache(folder()).fetch(key_, compute), made_up_entry(2));
  EXPECT_EQ(computed, 1);
}

TEST_F(CacheTest, equal_content_gives_equal_files) {
  Cache one(folder() / "1"), two(folder() / "2");
  one.store(key_, made_up_entry(3));
  two.store(key_, made_up_entry(3));
  EXPECT_EQ(read_bytes(one.path(key_)), read_bytes(two.path(key_)));
}

/// Any flipped byte and any cut is noticed, and the entry is made again.
TEST_F(CacheTest, damage_is_noticed_and_repaired) {
  Cache cache(folder());
  cache.store(key_, made_up_entry(4));
  const std::string sound = read_bytes(cache.path(key_));
  const std::string name = fs::relative(cache.path(key_), folder()).string();
  std::vector<std::string> broken{"", "text", sound.substr(0, 100), sound + "x",
                                  sound.substr(0, sound.size() - 1)};
  std::mt19937 random(5);
  for (int i = 0; i < 200; ++i) {
    broken.push_back(sound);
    broken.back()[random() % sound.size()] ^= static_cast<char>(1 + random() % 255);
  }
  size_t noticed = 0;
  for (const std::string& bytes : broken) {
    write(name, bytes);
    Cache fresh(folder());
    const auto loaded = fresh.load(key_);
    if (loaded) {
      // A flip of white space in the header may leave the same content.
      expect_equal(*loaded, made_up_entry(4));
      continue;
    }
    ++noticed;
    ASSERT_EQ(fresh.notes().size(), 1u);
    EXPECT_THAT(fresh.notes()[0], testing::HasSubstr("is damaged and will be made again"));
    expect_equal(fresh.fetch(key_, [] { return made_up_entry(4); }), made_up_entry(4));
    EXPECT_EQ(read_bytes(cache.path(key_)), sound);
  }
  EXPECT_GE(noticed, broken.size() - 5);
}

TEST_F(CacheTest, an_entry_under_a_wrong_name_is_not_believed) {
  Cache cache(folder());
  const std::string other = text_key("t5", "a dog", "encoder", 64);
  cache.store(key_, made_up_entry(6));
  fs::create_directories(cache.path(other).parent_path());
  fs::copy_file(cache.path(key_), cache.path(other));
  EXPECT_FALSE(cache.load(other));
}

TEST_F(CacheTest, runs_share_a_folder) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      Cache cache(folder());
      for (int i = 0; i < 10; ++i) {
        const std::string key = text_key("t5", std::to_string(i), "encoder", 64);
        expect_equal(cache.fetch(key, [&] { return made_up_entry(100 + i); }),
                     made_up_entry(100 + i));
      }
      EXPECT_TRUE(cache.notes().empty());
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(CacheTest, a_folder_that_cannot_be_made_is_the_environments_fault) {
  write("file", "x");
  EXPECT_EQ(error_of([&] { Cache cache(folder() / "file" / "cache"); }).kind(),
            ErrorKind::environment);
}

TEST(CacheKeys, change_with_everything_that_the_content_depends_on) {
  Example example;
  example.hash = "aa";
  example.box = {0, 0, 100, 100};
  example.size = {64, 64};
  std::vector<Example> variants(5, example);
  variants[1].hash = "ab";
  variants[2].box.x = 1;
  variants[3].box.height = 99;
  variants[4].size = {64, 128};
  std::set<std::string> keys;
  for (const Example& variant : variants) keys.insert(latent_key(variant, "vae"));
  keys.insert(latent_key(example, "vae2"));
  keys.insert(latent_key(example, "vae", /*mirrored=*/true));
  keys.insert(text_key("t5", "a", "b", 64));
  keys.insert(text_key("clip", "a", "b", 64));
  keys.insert(text_key("t5", "ab", "", 64));
  keys.insert(text_key("t5", "", "ab", 64));
  keys.insert(text_key("t5", "a", "b", 128));
  EXPECT_EQ(keys.size(), 12u);
  for (const std::string& key : keys) {
    EXPECT_EQ(key.size(), 64u);
    EXPECT_EQ(key.find_first_not_of("0123456789abcdef"), std::string::npos);
  }
  // What the content does not depend on.
  example.captions = {"something"};
  example.path = "elsewhere.png";
  example.repeats = 9;
  EXPECT_EQ(latent_key(example, "vae"), latent_key(variants[0], "vae"));
}

TEST(DefaultCacheFolder, follows_the_xdg_specification) {
  setenv("XDG_CACHE_HOME", "/some/where", 1);
  setenv("HOME", "/home/someone", 1);
  EXPECT_EQ(default_cache_folder(), "/some/where/fluxlora");
  setenv("XDG_CACHE_HOME", "relative", 1);
  EXPECT_EQ(default_cache_folder(), "/home/someone/.cache/fluxlora");
  unsetenv("XDG_CACHE_HOME");
  EXPECT_EQ(default_cache_folder(), "/home/someone/.cache/fluxlora");
  unsetenv("HOME");
  EXPECT_EQ(error_of([] { default_cache_folder(); }).kind(), ErrorKind::environment);
}

}  // namespace
}  // namespace fluxlora
