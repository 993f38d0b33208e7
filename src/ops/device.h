// SPDX-License-Identifier: Apache-2.0
// Device: one processor with its memory and its Ops.
#pragma once

#include <memory>
#include <string>

#include "ops/ops.h"
#include "tensor/buffer.h"

namespace fluxlora {

/// Bytes of a device's own memory.
struct MemoryInfo {
  int64_t free = 0, total = 0;
};

class Device {
 public:
  virtual ~Device() = default;

  virtual Ops& ops() = 0;
  /// "cpu (2 threads)", for people.
  virtual std::string name() const = 0;
  /// Whether tensors of this device can be read through plain pointers.
  virtual bool is_host() const = 0;
  /// Zeros for a device that works in the host's memory.
  virtual MemoryInfo memory() const { return {}; }
  /// Throws Error (environment) when the memory is not there.
  virtual Buffer allocate(int64_t bytes) = 0;
  /// Contiguous copies between host memory and the device; they return when the data is there.
  virtual void upload(const Tensor& device, const void* host) = 0;
  virtual void download(void* host, const Tensor& device) = 0;
  virtual void synchronize() = 0;

  // Copies beside the operations, for weights that visit the device. Each lane is a place that is
  // filled again and again.
  static constexpr int kLanes = 4;
  /// Memory of the host that the device copies from at the link's full speed. Throws Error
  /// (environment) when it is not there.
  virtual Buffer allocate_pinned(int64_t bytes) { return host_buffer(bytes); }
  /// Starts a copy into contiguous `device` memory once the operations given so far are done. Both
  /// sides are left alone until join().
  virtual void copy_aside(int lane, const Tensor& device, const void* pinned) {
    static_cast<void>(lane);
    upload(device, pinned);
  }
  /// The operations given from here on wait for the lane's last copy.
  virtual void join(int lane) { static_cast<void>(lane); }
};

/// "cpu", "cuda", "cuda:1" or "auto" (the first GPU, else the CPU). Throws Error (environment)
/// when there is no such device, Error (bad_input) for another word. backend/open_device.cpp.
std::unique_ptr<Device> open_device(const std::string& name);

}  // namespace fluxlora
