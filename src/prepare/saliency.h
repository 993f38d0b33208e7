// SPDX-License-Identifier: Apache-2.0
// Where a picture's subject is, by a small network of our own (tools/train_saliency).
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/picture.h"
#include "data/resize.h"
#include "ops/device.h"
#include "tensor/buffer.h"

namespace fluxlora {

/// How surely each cell of a picture belongs to its subject, rows from top to bottom. The cells
/// divide the picture evenly.
struct SaliencyMap {
  int width = 0, height = 0;  ///< cells
  std::vector<float> p;       ///< (height, width), 0 to 1
};

/// A U-Net of half a million weights (tools/train_saliency/network.py), on the CPU in f32.
class SaliencyNetwork {
 public:
  /// Reads the weights that are part of the program. The device must be the CPU and outlive this.
  explicit SaliencyNetwork(Device& device);

  /// What the network looks at: 128 pixels along the longer side, a multiple of 32 along the other.
  static Size glance_size(Size picture);

  /// picture: of a glance's size. The map has a cell for 4 x 4 of its pixels.
  SaliencyMap look(const Picture& picture);

 private:
  Tensor weight(const std::string& name) const { return weights_.at(name).view; }
  HostTensor conv(const Tensor& x, const std::string& name, int64_t stride);
  HostTensor pointwise(const Tensor& x, const std::string& name);
  HostTensor doubled(const Tensor& x, const Tensor& skip);

  Ops& op_;
  std::map<std::string, HostTensor> weights_;
};

/// The middle, in cells from the start, of what stands out along one axis (`across`: from left to
/// right) for a window of `length` cells: the middle of all of it where it fits, else of the window
/// that holds the most. Nothing when no cell is likely to be the subject.
std::optional<double> salient_middle(const SaliencyMap& map, bool across, double length);

}  // namespace fluxlora
