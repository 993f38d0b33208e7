# SPDX-License-Identifier: Apache-2.0
accelerate launch sdxl_train_network.py --network_dim 8
