# SPDX-License-Identifier: Apache-2.0
# Set like the README's command that trains CLIP too.
export MODEL_NAME="black-forest-labs/FLUX.1-dev"
export INSTANCE_DIR="photos"
export DATASET_NAME="a-user/a-data-set"
export OUTPUT_DIR="trained-flux-lora"

accelerate launch train_dreambooth_lora_flux.py \
  --pretrained_model_name_or_path=$MODEL_NAME --output_dir=$OUTPUT_DIR --mixed_precision="bf16" \
  --train_text_encoder --instance_data_dir=${INSTANCE_DIR} --instance_prompt="a photo of sks dog" --resolution=512 \
  --train_batch_size=1 --guidance_scale=1 --gradient_accumulation_steps=4 --optimizer="prodigy" --learning_rate=1. \
  --report_to="wandb" --lr_scheduler="constant" --lr_warmup_steps=0 --max_train_steps=500 \
  --validation_prompt="A photo of sks dog in a bucket" --seed="0" --push_to_hub
