#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, builds fluxlora and trains a first LoRA on the built-in tiny FLUX: runs/quickstart/.
#
#   scripts/quickstart.sh          on the CPU
#   scripts/quickstart.sh --cuda   on an NVIDIA GPU; fetches CUDA's compiler and libraries where they are missing
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$root"

build=build device=cpu
case "${1:-}" in
  "")
    scripts/install-deps.sh
    say "building"
    configure_and_build default build -DFLUXLORA_TESTS=OFF -- fluxlora
    ;;
  --cuda)
    build=build-cuda device=cuda
    scripts/install-deps.sh --python
    scripts/setup-cuda.sh
    say "building for this machine's GPU"
    configure_and_build cuda build-cuda -DFLUXLORA_TESTS=OFF -DCMAKE_CUDA_ARCHITECTURES=native -- fluxlora
    ;;
  *) sed -n 's/^#   //p' "$0" >&2 && exit 2 ;;
esac

if [ -e runs/quickstart ]; then
  n=1
  while [ -e "runs/quickstart.$n" ]; do n=$((n + 1)); done
  mv runs/quickstart "runs/quickstart.$n"
  say "the earlier run is now runs/quickstart.$n"
fi
"$build/fluxlora" train presets/quickstart.toml --device "$device"

cat <<END

The first LoRA is there:
  runs/quickstart/before_after.png         what the prompts gave before and after training
  runs/quickstart/report.html              the loss and all samples
  runs/quickstart/quickstart.safetensors   the LoRA, for diffusers and ComfyUI
Next: $build/fluxlora --help, docs/config.md
END
