# SPDX-License-Identifier: Apache-2.0
# Without a data set file: the folders' names say repeats and caption.
python flux_train_network.py --train_data_dir named --resolution 512,512 --caption_extension .txt \
  --pretrained_model_name_or_path models/flux1-dev.safetensors --network_module networks.lora_flux \
  --network_dim 4 --network_alpha 4 --output_name named --max_train_epochs 2 --guidance_scale 1 \
  --timestep_sampling sigmoid --sigmoid_scale 0.8 --model_prediction_type raw --learning_rate 1e-4
