// SPDX-License-Identifier: Apache-2.0
#include "model/token_ids.h"

#include "base/error.h"
#include "base/file.h"

namespace fluxlora {

void upload_ids(Device& device, const Tensor& destination, std::span<const int32_t> ids,
                int64_t vocabulary, const std::filesystem::path& path) {
  CHECK(static_cast<int64_t>(ids.size()) == destination.size(), "upload_ids: number of ids");
  for (const int32_t id : ids)
    if (id < 0 || id >= vocabulary)
      throw bad_input((file_exists(path) ? path : path / "config.json").string(),
                      "vocab_size is " + std::to_string(vocabulary) +
                          " and the tokenizer gives the id " + std::to_string(id),
                      "tokenizer and encoder are of different models: fetch the model again");
  device.upload(destination, ids.data());
}

}  // namespace fluxlora
