// SPDX-License-Identifier: Apache-2.0
// Text from a model that gives the next token: greedy or beam search.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace fluxlora::caption {

/// As generation_config.json names them in transformers.
struct GenerateOptions {
  int64_t num_beams = 1;                        ///< 1: greedy
  int64_t max_tokens = 256;                     ///< new ones, the end included
  int32_t start = 2;                            ///< decoder_start_token_id
  int32_t end = 2;                              ///< eos_token_id
  int32_t forced_first = -1, forced_last = -1;  ///< -1: free
  int64_t no_repeat_ngram = 0;                  ///< no run of so many tokens comes twice; 0: may
  double length_penalty = 1;                    ///< a finished text counts score / length^penalty
  bool early_stopping = false;                  ///< done as soon as num_beams texts are
};

/// Logits (sequences, vocabulary) of the token behind each sequence; all are of one length.
using NextLogits =
    std::function<std::vector<float>(const std::vector<std::vector<int32_t>>& sequences)>;

/// The best sequence, from `start` to `end` or to the greatest length. The search of transformers
/// (generation/utils.py, _beam_search, and its processors of logits), for one text.
std::vector<int32_t> generate(const GenerateOptions& options, const NextLogits& next);

}  // namespace fluxlora::caption
