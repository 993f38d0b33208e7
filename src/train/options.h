// SPDX-License-Identifier: Apache-2.0
// What a run is made of: each room's own options, together. Defaults fit FLUX.1-dev.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "eval/early_stop.h"
#include "flow/timestep.h"
#include "lora/options.h"
#include "model/pipeline.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"

namespace fluxlora::train {

/// The model's paths (must have `path`) and what is made of it.
struct ModelOptions : ModelPaths {
  std::string precision = "auto";        ///< of the frozen weights (model/precision.h)
  std::string text_precision = "auto";   ///< of T5's weights: the same words
  std::filesystem::path assistant_lora;  ///< frozen, on while training only; empty: none
  int64_t text_tokens = 0;               ///< T5 tokens; 0: 512, or 256 for schnell
};

struct SubjectOptions {
  std::string name = "my_lora";  ///< of the run and of its file
  std::string trigger;           ///< must be given and not blank
  std::string kind = "subject";  ///< or "style"
};

struct TrainOptions {
  int64_t steps = 2000;
  int64_t batch_size = 1;
  int64_t accumulation = 1;  ///< micro-batches per update
  int64_t seed = 0;
  double guidance = 1.0;  ///< fed to the model while training
  double caption_dropout = 0.05;
  double max_time = 0;  ///< minutes after which the run ends, whatever is left; 0: no limit
  flow::TimestepOptions timestep;
  std::string loss = "l2";         ///< or "huber", "smooth_l1"
  double huber_c = 0.1;            ///< where those two turn from a square into a line
  double noise_offset = 0;         ///< of a normal number added to each channel's noise
  double preservation = 0;         ///< weight of staying the base without the trigger word; 0: none
  std::string preservation_class;  ///< stands in place of the trigger word there
  optim::Options optimizer;
  optim::ScheduleOptions schedule;
  double b_ratio = 1;              ///< of the learning rate, for every B (LoRA+)
  std::vector<std::string> rates;  ///< "PATTERN = FACTOR" of the learning rate, by module
};

struct ValidateOptions {
  int64_t every = 250;    ///< steps between validations; 0: never, and nothing is held out
  int64_t held_out = -1;  ///< pictures kept out of training; -1: by their number
  int64_t timesteps = 4;  ///< flow times of each picture
  std::vector<std::string> prompts;  ///< neutral ones, for drift; empty: four of our own
  bool stop = true;                  ///< end the run when more steps bring nothing
  eval::StopOptions stopping;        ///< what counts as nothing
  bool refit = false;                ///< train once more, on all pictures, for as long as was best
};

struct SampleOptions {
  int64_t every = 250;  ///< steps between samples; 0: never
  std::vector<std::string>
      prompts;       ///< `[trigger]` stands for the trigger word; empty: two of our own
  int64_t seed = 0;  ///< prompt i uses seed + i, each time the same
  int64_t steps = 28;
  double guidance = 3.5;
  int64_t width = 0, height = 0;  ///< 0: the training resolution
};

struct OutputOptions {
  std::filesystem::path path;      ///< the run's folder; empty: runs/<subject.name>
  int64_t checkpoint_every = 250;  ///< 0: only at the end
  int64_t keep = 3;                ///< checkpoints that stay
  std::string format = "diffusers";
  std::string dtype = "f32";    ///< of the tensors in the LoRA file: f32, bf16, f16
  bool metadata_dates = false;  ///< record when the run first started; equal runs then differ
};

/// Limits of a run. They never change its result.
struct MemoryOptions {
  std::string vram;  ///< "16GiB": of the device, as nvidia-smi shows it; empty: what is free
  std::string ram;   ///< of pinned host memory; empty: no limit
};

struct RunOptions {
  ModelOptions model;
  SubjectOptions subject;
  DatasetOptions dataset;
  lora::Options lora;
  TrainOptions train;
  MemoryOptions memory;
  ValidateOptions validate;
  SampleOptions sample;
  OutputOptions output;
};

}  // namespace fluxlora::train
