#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# With ranks by layer, as in the guide's 6.3; the rest is kohya's defaults.
accelerate launch --mixed_precision bf16 --num_cpu_threads_per_process 1 flux_train_network.py \
  --pretrained_model_name_or_path models/flux1-dev.safetensors --clip_l "models/clip_l.safetensors" \
  --t5xxl models/t5xxl_fp16.safetensors --ae models/ae.safetensors --dataset_config kohya_dataset.toml \
  --output_dir output --output_name a_flux_lora --save_model_as safetensors \
  --network_module networks.lora_flux --network_dim 16 --network_alpha 1 --sdpa \
  --network_args "img_attn_dim=4" "img_mlp_dim=8" "txt_attn_dim=2" "txt_mlp_dim=2" "img_mod_dim=2" "in_dims=[4,2,2,2,4]" \
  --max_train_steps 100
