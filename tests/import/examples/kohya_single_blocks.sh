#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Single blocks alone, and Lion (network_args train_blocks; optimizer of the common options).
accelerate launch --mixed_precision bf16 --num_cpu_threads_per_process 1 flux_train_network.py \
  --pretrained_model_name_or_path models/flux1-dev.safetensors --clip_l "models/clip_l.safetensors" \
  --t5xxl models/t5xxl_fp16.safetensors --ae models/ae.safetensors --dataset_config kohya_dataset.toml \
  --output_dir output --output_name a_flux_lora --save_model_as safetensors \
  --network_module networks.lora_flux --network_dim 16 --network_alpha 1 --sdpa \
  --network_args "train_blocks=single" --use_lion_optimizer --learning_rate 3e-5 --save_precision bf16 \
  --max_train_steps 100 --timestep_sampling sigma --weighting_scheme logit_normal --logit_mean 0.5 --logit_std 0.8
