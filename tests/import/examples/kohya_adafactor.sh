#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# With the guide's Adafactor for little memory (6.1).
accelerate launch --mixed_precision bf16 --num_cpu_threads_per_process 1 flux_train_network.py \
  --pretrained_model_name_or_path models/flux1-dev.safetensors --clip_l "models/clip_l.safetensors" \
  --t5xxl models/t5xxl_fp16.safetensors --ae models/ae.safetensors --dataset_config kohya_dataset.toml \
  --output_dir output --output_name a_flux_lora --save_model_as safetensors \
  --network_module networks.lora_flux --network_dim 16 --network_alpha 1 --sdpa \
  --optimizer_type adafactor --optimizer_args "relative_step=False" "scale_parameter=False" "warmup_init=False" \
  --lr_scheduler constant_with_warmup --lr_warmup_steps 100 --max_grad_norm 0.0 --learning_rate 4e-4 \
  --max_train_steps 500 --timestep_sampling sigmoid --model_prediction_type raw --guidance_scale 1 \
  --fp8_base --cpu_offload_checkpointing --gradient_checkpointing
