#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# With the guide's recommended times (6.2), fp8 weights, and a schedule.
accelerate launch --mixed_precision bf16 --num_cpu_threads_per_process 1 flux_train_network.py \
  --pretrained_model_name_or_path models/flux1-dev.safetensors --clip_l "models/clip_l.safetensors" \
  --t5xxl models/t5xxl_fp16.safetensors --ae models/ae.safetensors --dataset_config kohya_dataset.toml \
  --output_dir output --output_name a_flux_lora --save_model_as safetensors \
  --network_module networks.lora_flux --network_dim 16 --network_alpha 1 --sdpa \
  --learning_rate 8e-4 --optimizer_type adamw8bit --lr_scheduler cosine --lr_warmup_steps 0.1 \
  --max_train_steps 900 --save_every_n_steps 300 --save_last_n_steps 600 --fp8_base --seed 42 \
  --timestep_sampling shift --discrete_flow_shift 3.1582 --model_prediction_type raw --guidance_scale 1.0 \
  --network_train_unet_only --cache_latents_to_disk --cache_text_encoder_outputs_to_disk \
  --sample_prompts kohya_prompts.txt --sample_every_n_steps 300
