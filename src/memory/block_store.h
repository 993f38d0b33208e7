// SPDX-License-Identifier: Apache-2.0
// BlockStore: frozen weights that live in the host's memory and visit the device in turn.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/device.h"

namespace fluxlora {

/// In which direction the blocks are walked, and what comes after the last one.
struct Walk {
  bool down = false;   ///< from the last block to the first: the backward
  bool turns = false;  ///< a walk back follows, so that the last pieces are wanted next
};

/// The pieces lie in pinned memory of the host; two places on the device hold them in turn, piece i
/// always place i % 2, so that one is being fetched while the other is read. A piece never
/// changes: leaving the device costs nothing. Used by one thread.
class BlockStore {
 public:
  BlockStore() = default;
  /// Piece i has bytes[i]. Uses the copy lanes `lane` and `lane` + 1. Throws Error (environment)
  /// when the memory is not there.
  BlockStore(Device& device, std::vector<int64_t> bytes, int lane);

  /// The piece's own memory on the host, to be filled before the first lease.
  Buffer& host(size_t i) { return host_[i]; }
  /// Where the piece is when it visits the device, shared with others.
  void* place(size_t i) const { return places_[i % 2].data(); }

  /// From here on the operations given to the device find piece i in its place, until release(i).
  void lease(size_t i);
  /// The operations given so far are the last ones of this visit. Fetches what the walk needs next
  /// into the place.
  void release(size_t i, Walk walk);

  int64_t device_bytes() const { return places_[0].bytes() + places_[1].bytes(); }
  int64_t host_bytes() const;

 private:
  void fetch(size_t i);

  Device* device_ = nullptr;
  int lane_ = 0;
  std::vector<Buffer> host_;
  Buffer places_[2];
  size_t holds_[2] = {kNothing, kNothing};
  static constexpr size_t kNothing = static_cast<size_t>(-1);
};

}  // namespace fluxlora
