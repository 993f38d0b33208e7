// SPDX-License-Identifier: Apache-2.0
#include "memory/block_store.h"

#include <algorithm>

#include "base/error.h"

namespace fluxlora {

BlockStore::BlockStore(Device& device, std::vector<int64_t> bytes, int lane)
    : device_(&device), lane_(lane) {
  int64_t largest[2] = {0, 0};
  for (size_t i = 0; i < bytes.size(); ++i) {
    largest[i % 2] = std::max(largest[i % 2], bytes[i]);
    host_.push_back(device.allocate_pinned(bytes[i]));
  }
  for (size_t p = 0; p < std::min<size_t>(bytes.size(), 2); ++p)
    places_[p] = device.allocate(largest[p]);
}

int64_t BlockStore::host_bytes() const {
  int64_t sum = 0;
  for (const Buffer& piece : host_) sum += piece.bytes();
  return sum;
}

void BlockStore::fetch(size_t i) {
  const size_t p = i % 2;
  if (holds_[p] == i) return;
  holds_[p] = i;
  const Tensor to(DType::u8, {host_[i].bytes()}, places_[p].data());
  device_->copy_aside(lane_ + static_cast<int>(p), to, host_[i].data());
}

void BlockStore::lease(size_t i) {
  CHECK(i < host_.size(), "BlockStore: no such piece");
  fetch(i);
  device_->join(lane_ + static_cast<int>(i % 2));
}

void BlockStore::release(size_t i, Walk walk) {
  if (walk.down) {
    if (i >= 2) fetch(i - 2);
  } else if (i + 2 < host_.size()) {
    fetch(i + 2);
  } else if (!walk.turns) {
    fetch(i % 2);
  }
}

}  // namespace fluxlora
