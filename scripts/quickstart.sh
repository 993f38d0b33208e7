#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, builds fluxlora and trains a first LoRA on the built-in tiny FLUX: runs/quickstart/.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$root"

scripts/install-deps.sh
say "building"
configure_and_build default build -DFLUXLORA_TESTS=OFF -- fluxlora

if [ -e runs/quickstart ]; then
  n=1
  while [ -e "runs/quickstart.$n" ]; do n=$((n + 1)); done
  mv runs/quickstart "runs/quickstart.$n"
  say "the earlier run is now runs/quickstart.$n"
fi
build/fluxlora train presets/quickstart.toml

cat <<'END'

The first LoRA is there:
  runs/quickstart/before_after.png         what the prompts gave before and after training
  runs/quickstart/report.html              the loss and all samples
  runs/quickstart/quickstart.safetensors   the LoRA, for diffusers and ComfyUI
Next: build/fluxlora --help, docs/config.md
END
