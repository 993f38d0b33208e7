#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Packs the GPU's tests and measurements with the libraries that they load (without glibc, the driver,
# cuBLAS and cuDNN) into BUILD/gpu-tests.tar.gz, for a machine that has a GPU and no compiler:
#   scripts/pack-gpu-tests.sh BUILD            here; configure BUILD with -DFLUXLORA_NATIVE=OFF
#   tar xzf gpu-tests.tar.gz && gpu-tests/run  there
set -euo pipefail

build=${1:?usage: scripts/pack-gpu-tests.sh BUILD}
programs=(cuda_agree_test cuda_fp8_test cuda_products_test bench_kernels)
folder=$build/gpu-tests
rm -rf "$folder"
mkdir -p "$folder"

for program in "${programs[@]}"; do
  strip -o "$folder/$program" "$build/$program"
  ldd "$build/$program" | awk '$3 ~ /^\// {print $3}'
done | sort -u | while read -r library; do
  case $(basename "$library") in
    libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | librt.so.*) ;;
    *) cp -L "$library" "$folder/" ;;
  esac
done

cat > "$folder/run" <<'RUN'
#!/bin/sh
# All tests, then the measurements; the exit status is that of the tests.
cd "$(dirname "$0")" || exit 1
export LD_LIBRARY_PATH=$PWD${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
status=0
for test in cuda_agree_test cuda_products_test cuda_fp8_test; do
  ./$test --gtest_brief=1 "$@" || status=1
done
./bench_kernels || status=1
exit $status
RUN
chmod +x "$folder/run"
tar -C "$build" -czf "$build/gpu-tests.tar.gz" gpu-tests
ls -l "$build/gpu-tests.tar.gz"
