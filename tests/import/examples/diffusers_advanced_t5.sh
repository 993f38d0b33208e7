# SPDX-License-Identifier: Apache-2.0
# Set like its second: new words in T5 too.
export MODEL_NAME="black-forest-labs/FLUX.1-dev"
export INSTANCE_DIR="photos"
export DATASET_NAME="a-user/a-data-set"
export OUTPUT_DIR="trained-flux-lora"

accelerate launch train_dreambooth_lora_flux_advanced.py \
  --pretrained_model_name_or_path=$MODEL_NAME --output_dir=$OUTPUT_DIR --mixed_precision="bf16" \
  --dataset_name=$DATASET_NAME --instance_prompt="3d icon in the style of TOK" --caption_column="prompt" \
  --resolution=1024 --train_batch_size=1 --repeats=1 --report_to="wandb" --gradient_accumulation_steps=1 \
  --gradient_checkpointing --learning_rate=1.0 --text_encoder_lr=1.0 --optimizer="prodigy" --train_text_encoder_ti --enable_t5_ti \
  --train_text_encoder_ti_frac=0.5 --lr_scheduler="constant" --lr_warmup_steps=0 --rank=8 --max_train_steps=700 \
  --checkpointing_steps=2000 --seed="0" --push_to_hub
