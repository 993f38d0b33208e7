#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, builds, and runs the tests.
#
#   scripts/test.sh          every test that needs neither a GPU nor PyTorch
#   scripts/test.sh --fast   the quick ones of these
#   scripts/test.sh --all    also the format, the sanitizers, the CUDA build (without a GPU), and the comparisons with
#                            diffusers, PEFT, transformers
#
# FLUXLORA_PRESET names the CMake preset (default; ci: warnings are errors).
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$root"

all=0
labels=()
for option in "$@"; do
  case "$option" in
    --all) all=1 ;;
    --fast) labels=(-L fast) ;;
    *) sed -n 's/^#   //p' "$0" >&2 && exit 2 ;;
  esac
done
preset="${FLUXLORA_PRESET:-default}"
folder=build
if [ "$preset" != default ]; then folder="build-$preset"; fi
closing="$(mktemp)"
trap 'rm -f "$closing"' EXIT
failed=()

# step NAME COMMAND...: goes on after a failure, so that one run tells everything.
step() {
  local name="$1"
  shift
  say "$name"
  "$@" || failed+=("$name")
}

# run_ctest FOLDER [options...]: shows failures only, keeps ctest's closing lines for the end.
run_ctest() {
  local log="$1/ctest.log" status=0
  ctest --test-dir "$1" --output-on-failure --no-tests=error -j "$(nproc)" "${@:2}" > "$log" 2>&1 || status=$?
  if [ "$status" != 0 ]; then grep -v -E ' Passed +[0-9.]+ sec$| Start +[0-9]+:' "$log"; fi
  grep -E '^[0-9]+% tests passed|^Total Test time' "$log" | tee -a "$closing"
  return "$status"
}

check_format() {
  find src tests \( -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) -print0 | xargs -0 .venv-test/bin/clang-format --dry-run -Werror
}

# A virtual environment with the pinned references, made once for each version of the list.
make_venv() {
  local list=tests/interop/requirements.txt stamp=.venv-test/stamp
  if cmp -s "$list" "$stamp"; then return; fi
  rm -rf .venv-test
  python3 -m venv .venv-test
  .venv-test/bin/python -m pip install --quiet --requirement "$list"
  # For CLIP's list of words alone: what it depends on would bring a torchvision that does not fit this torch.
  .venv-test/bin/python -m pip install --quiet --no-deps open-clip-torch==3.3.0
  cp "$list" "$stamp"
}

run_asan() {
  configure_and_build asan build-asan -DFLUXLORA_TESTS=ON -- fast_tests || return 1
  LSAN_OPTIONS="suppressions=$root/tests/leaks.txt:print_suppressions=0" run_ctest build-asan -L fast
}

# Compiles and links for one architecture and PTX; where there is no GPU its tests skip themselves.
build_cuda() {
  scripts/setup-cuda.sh || return 1
  configure_and_build cuda build-cuda -DFLUXLORA_TESTS=ON -DFLUXLORA_WERROR=ON -DCMAKE_CUDA_ARCHITECTURES=90 -- \
    fluxlora cuda_agree_test cuda_products_test cuda_fp8_test || return 1
  build-cuda/fluxlora plan presets/quickstart.toml --device cpu
}

# One thread: the models are tiny, and torch's threads wait for each other by spinning.
run_pytest() {
  local status=0
  OMP_NUM_THREADS=1 FLUXLORA_BUILD_DIR="$root/$folder" .venv-test/bin/python -m pytest -q -p no:cacheprovider \
    tests/interop tests/golden 2>&1 | tee "$folder/pytest.log" || status=$?
  grep -E '^(=+ )?[0-9]+ (passed|failed).* in [0-9.]+s' "$folder/pytest.log" | tail -n 1 >> "$closing" || true
  return "$status"
}

scripts/install-deps.sh --tests $([ "$all" = 0 ] || echo --python)
say "building (preset $preset)"
configure_and_build "$preset" "$folder" -DFLUXLORA_TESTS=ON -- all
step "tests" run_ctest "$folder" "${labels[@]}"
if [ "$all" = 1 ]; then
  make_venv
  step "format" check_format
  step "tests under the sanitizers" run_asan
  step "the CUDA build" build_cuda
  step "comparisons with diffusers, PEFT and transformers" run_pytest
fi

if [ "${#failed[@]}" != 0 ]; then say "failed: ${failed[*]}"; fi
cat "$closing"
[ "${#failed[@]}" = 0 ]
