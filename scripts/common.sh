# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts beside it: messages, the number of build jobs.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

say() { printf '== %s\n' "$*" >&2; }

# fail WHAT HINT: the two lines that every error of this project has.
fail() {
  printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
  exit 3
}

# As many compilers at once as there are cores, but no more than memory holds (1.5 GiB each).
build_jobs() {
  local cores memory
  cores="$(nproc)"
  memory="$(awk '/^MemAvailable:/ {print int($2 / 1572864)}' /proc/meminfo)"
  if [ "$memory" -lt "$cores" ]; then cores="$memory"; fi
  if [ "$cores" -lt 1 ]; then cores=1; fi
  echo "$cores"
}

# configure_and_build PRESET FOLDER [cmake options...] -- TARGETS...: ccache finds what another clone has compiled.
configure_and_build() {
  local preset="$1" folder="$2" options=()
  shift 2
  while [ "$1" != "--" ]; do
    options+=("$1")
    shift
  done
  shift
  export CCACHE_BASEDIR="$root" CCACHE_NOHASHDIR=1
  cmake --preset "$preset" "${options[@]}" > "$root/$folder.log" 2>&1 || {
    tail -n 30 "$root/$folder.log" >&2
    fail "cmake could not configure the preset $preset" "read $folder.log; a library may be missing: scripts/install-deps.sh"
  }
  mv "$root/$folder.log" "$root/$folder/configure.log"
  cmake --build "$root/$folder" -j "$(build_jobs)" --target "$@"
}
