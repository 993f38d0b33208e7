# SPDX-License-Identifier: Apache-2.0
python flux_train_network.py --output_name "mine
