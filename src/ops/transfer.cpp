// SPDX-License-Identifier: Apache-2.0
#include "ops/transfer.h"

#include "base/error.h"

namespace fluxlora {
namespace {

void check(const Tensor& a, const Tensor& b) {
  CHECK(a.contiguous() && b.contiguous() && a.size() == b.size(),
        "transfer of " + a.describe() + " and " + b.describe());
}

}  // namespace

void upload_as(Device& device, const Tensor& to, const Tensor& host) {
  check(to, host);
  if (to.dtype() == host.dtype()) return device.upload(to, host.data());
  const HostTensor converted(to.dtype(), {to.size()});
  convert(to.dtype(), converted.view.data(), host.dtype(), host.data(), host.size());
  device.upload(to, converted.view.data());
}

void download_as(Device& device, const Tensor& host, const Tensor& from) {
  check(host, from);
  if (host.dtype() == from.dtype()) return device.download(host.data(), from);
  const HostTensor raw(from.dtype(), {from.size()});
  device.download(raw.view.data(), from);
  convert(host.dtype(), host.data(), from.dtype(), raw.view.data(), from.size());
}

}  // namespace fluxlora
