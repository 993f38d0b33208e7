// SPDX-License-Identifier: Apache-2.0
// Inside this room only: words that the peers share and what they mean here.
#pragma once

#include "config/import/translator.h"

namespace fluxlora::config {

/// An optimizer by any peer's name ("AdamW8bit", "prodigy"), with the learning rate that goes with
/// it. What fluxlora lacks becomes AdamW and is listed; a rate that only self-tuning optimizers
/// take is replaced then.
void set_optimizer(Translator& to, const Foreign& optimizer, const Foreign* rate);

/// "weight_decay=0.01", "betas=(0.9, 0.99)", "eps=1e-8", Prodigy's and Adafactor's own, as peers
/// hand them to the optimizer that was set; others are listed below `prefix`. What is not said is
/// prodigyopt's default for Prodigy.
void set_optimizer_arguments(Translator& to, const ForeignList& arguments,
                             const std::string& prefix);

/// A schedule of transformers' and diffusers' get_scheduler. `warmup`: steps, or a share below 1
/// of the steps that were set before.
void set_schedule(Translator& to, const Foreign& schedule, const Foreign* warmup);

/// Times as compute_density_for_timestep_sampling of diffusers draws them (Esser et al. 2024) from
/// a scheduler with a fixed shift. The peers walk the times downwards, so the sign of logit_mean
/// turns. Uniform times with a shift are no choice here; a logistic draw is close to 1.702 times a
/// normal one (their distribution functions differ by less than 0.01).
void set_density(Translator& to, const Foreign& scheme, double shift);

/// model.path from a file, a folder or a name on Hugging Face's hub, which is listed: it has to be
/// downloaded.
void set_model(Translator& to, const Foreign& model);

/// Steps from epochs: all pictures with their repeats, in batches, over `accumulation`. Listed when
/// a folder is not there.
void set_steps_from_epochs(Translator& to, const Foreign& epochs);
/// Updates in one epoch of the folders set so far; 0 when a folder is not there.
int64_t steps_per_epoch(Translator& to);

/// All folders at one size: that is dataset.resolution; else each folder keeps its own. A side is
/// made a multiple of 16.
void set_resolutions(Translator& to, const std::vector<std::vector<int64_t>>& sides,
                     const Foreign& from);

}  // namespace fluxlora::config
