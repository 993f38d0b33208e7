# SPDX-License-Identifier: Apache-2.0
# With prior preservation and chosen layers (the README's notes), AdamW in eight bits.
export MODEL_NAME="black-forest-labs/FLUX.1-dev"
export INSTANCE_DIR="photos"
export DATASET_NAME="a-user/a-data-set"
export OUTPUT_DIR="trained-flux-lora"

accelerate launch train_dreambooth_lora_flux.py \
  --pretrained_model_name_or_path=$MODEL_NAME --output_dir=$OUTPUT_DIR --mixed_precision="bf16" \
  --instance_data_dir=$INSTANCE_DIR --instance_prompt="a photo of sks dog" --resolution=512 --train_batch_size=1 \
  --with_prior_preservation --prior_loss_weight=0.5 --class_data_dir=photos/regularisation --class_prompt="a photo of a dog" \
  --lora_layers="attn.to_k,attn.to_q,attn.to_v,attn.to_out.0" --rank=16 --lora_alpha=8 --lora_dropout=0.1 --use_8bit_adam \
  --learning_rate=1e-4 --lr_scheduler=cosine --lr_warmup_steps=50 --num_train_epochs=3 --guidance_scale=1 \
  --weighting_scheme=logit_normal --logit_mean=0.5 --checkpoints_total_limit=2
