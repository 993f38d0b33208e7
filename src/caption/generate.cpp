// SPDX-License-Identifier: Apache-2.0
#include "caption/generate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "base/error.h"

namespace fluxlora::caption {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

struct Beam {
  std::vector<int32_t> ids;
  float score = 0;  ///< sum of log-probabilities; of a finished one divided by its length
};

struct Candidate {
  float score;
  size_t beam;
  int32_t token;
};

void log_softmax(std::span<float> logits) {
  const float most = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float v : logits) sum += std::exp(double(v) - most);
  const double shift = most + std::log(sum);
  for (float& v : logits) v = static_cast<float>(v - shift);
}

/// Tokens that would end a run of n tokens that `ids` has already.
void ban_repeats(std::span<float> scores, const std::vector<int32_t>& ids, size_t n) {
  if (n == 0 || ids.size() + 1 < n) return;
  const auto tail = ids.end() - static_cast<ptrdiff_t>(n - 1);
  for (auto at = ids.begin(); at + static_cast<ptrdiff_t>(n - 1) < ids.end(); ++at)
    if (std::equal(tail, ids.end(), at))
      scores[static_cast<size_t>(at[static_cast<ptrdiff_t>(n - 1)])] = kNever;
}

void force(std::span<float> scores, int32_t token) {
  std::fill(scores.begin(), scores.end(), kNever);
  scores[static_cast<size_t>(token)] = 0;
}

class Search {
 public:
  explicit Search(const GenerateOptions& options)
      : o_(options), beams_(static_cast<size_t>(options.num_beams)) {
    running_.push_back({{o_.start}, 0});
  }

  std::vector<int32_t> run(const NextLogits& next) {
    for (bool more = true; more;) more = step(next);
    const std::vector<Beam>& best = finished_.empty() ? running_ : finished_;
    return best.front().ids;
  }

 private:
  size_t length() const { return running_.front().ids.size(); }

  /// The best continuations of all beams, twice as many as beams, so that enough are left when some
  /// of them end.
  std::vector<Candidate> continuations(std::vector<float> logits) const {
    const size_t vocabulary = logits.size() / running_.size();
    std::vector<Candidate> all;
    all.reserve(logits.size());
    for (size_t b = 0; b < running_.size(); ++b) {
      const std::span<float> scores(logits.data() + b * vocabulary, vocabulary);
      log_softmax(scores);
      ban_repeats(scores, running_[b].ids, static_cast<size_t>(o_.no_repeat_ngram));
      if (length() == 1 && o_.forced_first >= 0) force(scores, o_.forced_first);
      if (length() == static_cast<size_t>(o_.max_tokens) && o_.forced_last >= 0)
        force(scores, o_.forced_last);
      for (size_t t = 0; t < vocabulary; ++t)
        if (scores[t] > kNever)
          all.push_back({scores[t] + running_[b].score, b, static_cast<int32_t>(t)});
    }
    const size_t kept = std::min(all.size(), 2 * beams_);
    std::partial_sort(all.begin(), all.begin() + static_cast<ptrdiff_t>(kept), all.end(),
                      [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
    all.resize(kept);
    return all;
  }

  float counted(float score, size_t tokens) const {
    return score / static_cast<float>(std::pow(double(tokens), o_.length_penalty));
  }

  /// False when there is nothing more to do.
  bool step(const NextLogits& next) {
    std::vector<std::vector<int32_t>> sequences;
    for (const Beam& beam : running_) sequences.push_back(beam.ids);
    const std::vector<Candidate> candidates = continuations(next(sequences));
    const size_t tokens = length();  // new ones, with the one that now comes
    std::vector<Beam> going, ended;
    for (size_t i = 0; i < candidates.size(); ++i) {
      const Candidate& c = candidates[i];
      Beam beam{running_[c.beam].ids, c.score};
      beam.ids.push_back(c.token);
      const bool ends = c.token == o_.end || tokens == static_cast<size_t>(o_.max_tokens);
      if (!ends && going.size() < beams_) going.push_back(std::move(beam));
      if (ends && i < beams_) {  // those beyond are a reserve to go on with, no results
        beam.score = counted(beam.score, tokens);
        ended.push_back(std::move(beam));
      }
    }
    for (const Beam& beam : ended) insert(beam);
    if (going.empty()) return false;
    running_ = std::move(going);
    const bool full = finished_.size() == beams_;
    improvable_ =
        improvable_ && (!full || counted(running_.front().score, tokens) > finished_.back().score);
    return improvable_ && !(full && o_.early_stopping);
  }

  /// The best first; of equals the earlier one.
  void insert(const Beam& beam) {
    const auto place =
        std::upper_bound(finished_.begin(), finished_.end(), beam,
                         [](const Beam& a, const Beam& b) { return a.score > b.score; });
    finished_.insert(place, beam);
    if (finished_.size() > beams_) finished_.pop_back();
  }

  GenerateOptions o_;
  size_t beams_;
  std::vector<Beam> running_, finished_;
  bool improvable_ = true;
};

}  // namespace

std::vector<int32_t> generate(const GenerateOptions& options, const NextLogits& next) {
  CHECK(options.num_beams > 0 && options.max_tokens > 0, "generate: beams and tokens");
  return Search(options).run(next);
}

}  // namespace fluxlora::caption
