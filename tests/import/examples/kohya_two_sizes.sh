# SPDX-License-Identifier: Apache-2.0
# The guide's several resolutions (6.7), on a Windows line.
accelerate launch flux_train_network.py --dataset_config kohya_two_sizes.toml ^
  --pretrained_model_name_or_path models\\flux1-dev.safetensors --network_module networks.lora_flux ^
  --output_name two_sizes --guidance_scale 1 --timestep_sampling flux_shift --model_prediction_type raw
