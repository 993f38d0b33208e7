# SPDX-License-Identifier: Apache-2.0
python train_dreambooth_lora_flux.py --instance_data_dir $INSTANCE_DIR
