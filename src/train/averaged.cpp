// SPDX-License-Identifier: Apache-2.0
#include "train/averaged.h"

namespace fluxlora::train {

Averaged::Averaged(const State& state) : state_(state) {
  if (state.step == 0 || !state.optimizer.averages()) return;
  const Tensor& params = state.adapters.params();
  trained_ = HostTensor(params.dtype(), {params.size()});
  state.device.download(trained_.view.data(), params);
  state.optimizer.average(params);
  state.adapters.refresh();
}

Averaged::~Averaged() {
  if (!trained_.view) return;
  state_.device.upload(state_.adapters.params(), trained_.view.data());
  state_.adapters.refresh();
}

}  // namespace fluxlora::train
