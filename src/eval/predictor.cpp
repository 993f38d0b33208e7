// SPDX-License-Identifier: Apache-2.0
#include "eval/predictor.h"

#include "ops/transfer.h"

namespace fluxlora::eval {

Predictor::Predictor(flux::Transformer& model, lora::AdapterSet& adapters, int64_t text_tokens)
    : model_(model), adapters_(adapters), text_tokens_(text_tokens) {}

void Predictor::prepare(LatentSize size) {
  std::unique_ptr<flux::Workspace>& workspace = workspaces_[size];
  if (!workspace)
    workspace = std::make_unique<flux::Workspace>(
        model_, model_.sizes(1, text_tokens_, size.first / 2, size.second / 2));
}

void Predictor::release() {
  workspaces_.clear();
}

void Predictor::adapted(const Tensor& velocity, const Tensor& x, LatentSize size,
                        const Query& query) {
  prepare(size);
  flux::Workspace& workspace = *workspaces_.at(size);
  const flux::Inputs& in = workspace.inputs();
  Device& device = model_.device();
  upload_as(device, in.img, x);
  upload_as(device, in.txt, query.prompt->txt.view);
  upload_as(device, in.pooled, query.prompt->pooled.view);
  device.ops().fill(in.t, query.t);
  device.ops().fill(in.guidance, query.guidance);
  workspace.forward();
  download_as(device, velocity, workspace.prediction());
}

void Predictor::base(const Tensor& velocity, const Tensor& x, LatentSize size, const Query& query) {
  adapters_.set_multiplier(0);
  adapted(velocity, x, size, query);
  adapters_.set_multiplier(1);
}

}  // namespace fluxlora::eval
