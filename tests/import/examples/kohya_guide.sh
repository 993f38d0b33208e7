#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Set like the first command of kohya's guide (docs/flux_train_network.md, 4).
accelerate launch --mixed_precision bf16 --num_cpu_threads_per_process 1 flux_train_network.py \
  --pretrained_model_name_or_path models/flux1-dev.safetensors --clip_l "models/clip_l.safetensors" \
  --t5xxl models/t5xxl_fp16.safetensors --ae models/ae.safetensors --dataset_config kohya_dataset.toml \
  --output_dir output --output_name a_flux_lora --save_model_as safetensors \
  --network_module networks.lora_flux --network_dim 16 --network_alpha 1 --sdpa \
  --learning_rate=1e-4 --optimizer_type="AdamW8bit" --lr_scheduler="constant" --max_train_epochs=10 \
  --save_every_n_epochs=1 --mixed_precision="fp16" --gradient_checkpointing --guidance_scale=1.0 \
  --timestep_sampling="flux_shift" --model_prediction_type="raw" --blocks_to_swap=18 \
  --cache_text_encoder_outputs --cache_latents
