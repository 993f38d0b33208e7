#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# With some blocks alone, as in the guide's 6.4.
accelerate launch --mixed_precision bf16 --num_cpu_threads_per_process 1 flux_train_network.py \
  --pretrained_model_name_or_path models/flux1-dev.safetensors --clip_l "models/clip_l.safetensors" \
  --t5xxl models/t5xxl_fp16.safetensors --ae models/ae.safetensors --dataset_config kohya_dataset.toml \
  --output_dir output --output_name a_flux_lora --save_model_as safetensors \
  --network_module networks.lora_flux --network_dim 16 --network_alpha 1 --sdpa \
  --network_args "train_double_block_indices=0,1" "train_single_block_indices=0-1,3" \
  --max_train_steps 100 --timestep_sampling uniform --model_prediction_type raw --guidance_scale 1
