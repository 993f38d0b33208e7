#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# With q, k and v apart, and input perturbation (7.1).
accelerate launch --mixed_precision bf16 --num_cpu_threads_per_process 1 flux_train_network.py \
  --pretrained_model_name_or_path models/flux1-dev.safetensors --clip_l "models/clip_l.safetensors" \
  --t5xxl models/t5xxl_fp16.safetensors --ae models/ae.safetensors --dataset_config kohya_dataset.toml \
  --output_dir output --output_name a_flux_lora --save_model_as safetensors \
  --network_module networks.lora_flux --network_dim 16 --network_alpha 1 --sdpa \
  --network_args "split_qkv=True" --ip_noise_gamma 0.1 --apply_t5_attn_mask --max_train_steps 100 \
  --timestep_sampling flux_shift --model_prediction_type raw --guidance_scale 1 --text_encoder_lr 5e-5
