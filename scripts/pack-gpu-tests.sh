#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Packs the program, the GPU's tests and measurements with the libraries that they load (without glibc, the driver,
# cuBLAS and cuDNN) into BUILD/gpu-tests.tar.xz, for a machine that has a GPU and no compiler:
#   scripts/pack-gpu-tests.sh BUILD            here; configure BUILD with -DFLUXLORA_NATIVE=OFF -DFLUXLORA_BENCH=ON
#   tar xf gpu-tests.tar.xz && gpu-tests/run   there
# Where scripts/bundle.sh built a libvips without its hundred libraries, that one is packed.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

build=${1:?usage: scripts/pack-gpu-tests.sh BUILD}
programs=(cuda_agree_test cuda_fp8_test cuda_products_test bench_kernels bench_step model_dump text_dump vae_dump fluxlora)
folder=$build/gpu-tests
rm -rf "$folder"
mkdir -p "$folder/lib"

# Beside each program's own libraries, a word that finds them: others must not.
for program in "${programs[@]}"; do
  strip -o "$folder/lib/$program" "$build/$program"
  cat > "$folder/$program" <<'WORD'
#!/bin/sh
lib=$(cd "$(dirname "$0")/lib" && pwd)
LD_LIBRARY_PATH=$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$lib/$(basename "$0")" "$@"
WORD
  chmod +x "$folder/$program"
  LD_LIBRARY_PATH="$root/.deps/vips/lib" ldd "$build/$program" | awk '$3 ~ /^\// {print $3}'
done | sort -u | while read -r library; do
  case $(basename "$library") in
    libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | librt.so.*) ;;
    *) strip --strip-unneeded -o "$folder/lib/$(basename "$library")" "$library" ;;
  esac
done

cat > "$folder/run" <<'RUN'
#!/bin/sh
# All tests, then the measurements; the exit status is that of the tests.
cd "$(dirname "$0")" || exit 1
status=0
for test in cuda_agree_test cuda_products_test cuda_fp8_test; do
  ./$test --gtest_brief=1 "$@" || status=1
done
./bench_kernels || status=1
exit $status
RUN
chmod +x "$folder/run"
# The programs share most of their bytes: the dictionary spans them.
tar -C "$build" --sort=name -cf - gpu-tests | xz -T1 --lzma2=preset=3,dict=192MiB > "$build/gpu-tests.tar.xz"
ls -l "$build/gpu-tests.tar.xz"
