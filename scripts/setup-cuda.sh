#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fetches what the CUDA build needs from PyPI into .deps/cuda: cuBLAS, cuDNN and its frontend, NCCL, NVRTC, and a
# compiler where there is no nvcc 13. No rights are needed but for Python's venv module. About 1.3 GB to download.
#
#   scripts/setup-cuda.sh [--compiler] [--run-time]    --compiler: fetch nvcc even if the system has one
#                                                      --run-time: the libraries alone, for a program built elsewhere
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$root"

compiler=auto
for option in "$@"; do
  case "$option" in
    --compiler) compiler=yes ;;
    --run-time) compiler=no ;;
    *) fail "$option: no such option" "scripts/setup-cuda.sh [--compiler] [--run-time]" ;;
  esac
done

# has_nvcc: whether the system's nvcc is of CUDA 13 (FLUXLORA_CUDA_ROOT, PATH, /usr/local/cuda).
has_nvcc() {
  local nvcc
  for nvcc in "${FLUXLORA_CUDA_ROOT:-/nowhere}/bin/nvcc" "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc; do
    if [ -x "$nvcc" ] && "$nvcc" --version | grep -q 'release 13\.'; then return 0; fi
  done
  return 1
}
if [ "$compiler" = auto ]; then
  compiler=yes
  if has_nvcc; then compiler=no; fi
fi

part='^nvidia-\(cublas\|cudnn\|cuda-nvrtc\|nccl\)'
if [ "$compiler" = yes ]; then part='^nvidia-'; fi
mapfile -t wanted < <(grep "$part" scripts/cuda-wheels.txt)
stamp=.deps/cuda/stamp
if [ -e "$stamp" ] && [ -z "$(printf '%s\n' "${wanted[@]}" | grep -vxFf "$stamp")" ]; then
  say "CUDA's libraries are in .deps/cuda"
  exit 0
fi

scripts/install-deps.sh --python
say "fetching ${wanted[*]}"
rm -rf .deps/cuda .deps/.cuda .deps/.pip
mkdir -p .deps
python3 -m venv .deps/.pip
# In one call, since wheels share folders.
.deps/.pip/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps --no-compile \
  --only-binary :all: --target .deps/.cuda "${wanted[@]}" ||
  fail "PyPI gave no ${wanted[*]}" "is a package index reachable? see pip config list"
rm -rf .deps/.pip
# nvcc looks for its libraries in lib64, the wheels have lib.
if [ "$compiler" = yes ]; then ln -s lib .deps/.cuda/nvidia/cu13/lib64; fi
printf '%s\n' "${wanted[@]}" > .deps/.cuda/stamp
mv .deps/.cuda .deps/cuda
say "CUDA's libraries are in .deps/cuda ($(du -sh .deps/cuda | cut -f1))"
