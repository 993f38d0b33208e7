// SPDX-License-Identifier: Apache-2.0
// EXPECT_ERROR(statement, kind, "part of WHERE", "part of WHAT"): the statement throws an Error
// that a person can act on.
#pragma once

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

#define EXPECT_ERROR(statement, expected_kind, where_part, what_part)                           \
  do {                                                                                          \
    bool thrown = false;                                                                        \
    try {                                                                                       \
      statement;                                                                                \
    } catch (const ::fluxlora::Error& error) {                                                  \
      thrown = true;                                                                            \
      EXPECT_EQ(error.kind(), ::fluxlora::ErrorKind::expected_kind) << error.two_lines();       \
      EXPECT_THAT(error.where(), ::testing::HasSubstr(where_part));                             \
      EXPECT_THAT(error.message(), ::testing::HasSubstr(what_part));                            \
      EXPECT_FALSE(error.hint().empty());                                                       \
      EXPECT_THAT(error.two_lines(), ::testing::MatchesRegex("error: [^\n]*\nhint: [^\n]*\n")); \
    }                                                                                           \
    EXPECT_TRUE(thrown) << #statement " throws no Error";                                       \
  } while (false)
