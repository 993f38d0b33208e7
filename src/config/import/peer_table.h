// SPDX-License-Identifier: Apache-2.0
// Inside this room only: what is known of each option of a peer's parser, from assets/peers/*.toml.
#pragma once

#include <map>
#include <set>
#include <string>

namespace fluxlora::config {

/// Why an option has no counterpart.
enum class Fate {
  done,       ///< fluxlora sees to it in its own way: the result is the same
  lost,       ///< the result is another one
  elsewhere,  ///< it has no effect on a LoRA of FLUX.1
};

struct Note {
  Fate fate;
  std::string would;  ///< "train the CLIP text encoder too": what it would have done
};

struct PeerTable {
  std::string peer;                             ///< "kohya"
  std::map<std::string, std::string> direct;    ///< option -> key of ours
  std::map<std::string, std::string> defaults;  ///< option -> the peer's default where ours differs
  std::set<std::string> translated;             ///< by code
  std::map<std::string, Note> notes;            ///< the rest; "x.*" stands for all below x

  /// The note of an option, or of the "x.*" above it; null if there is none.
  const Note* note(const std::string& option) const;
  bool is_mapped(const std::string& option) const {
    return direct.contains(option) || translated.contains(option);
  }
};

/// The table of "kohya", "ai-toolkit" or "diffusers".
const PeerTable& peer_table(const std::string& peer);

}  // namespace fluxlora::config
