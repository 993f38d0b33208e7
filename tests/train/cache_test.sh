#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The cache when the process dies and when two runs share it: no half entry is believed, nothing is
# left over, and the result is that of a run which had the cache for itself.
#   cache_test.sh PROGRAM SOURCE_DIR
set -euo pipefail
program=$1 source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
RANDOM=20260302

cat > "$work/run.toml" <<END
[model]
path = "tiny"
text_tokens = 16
[subject]
name = "shared"
trigger = "zorbot"
[dataset]
resolution = 96
[[dataset.folders]]
path = "$source/assets/sample-dataset"
flip = true
shuffle_tags = true
resolutions = [64, 96]
[lora]
rank = 2
[train]
steps = 2
[sample]
every = 0
END

fail() { echo "FAILED: $*" >&2; exit 1; }

# Run NAME with cache CACHE, this shell's process replaced.
start() {
  exec "$program" train "$work/run.toml" --set output.path="$work/$1" \
    --set dataset.cache="$work/$2" --resume 2>> "$work/$1.log"
}

entries() { find "$work/$1" -name '*.safetensors' -not -name '.*' | sort; }

# The files of a cache by name and content; equal for equal runs.
content() { (cd "$work/$1" && find . -type f | sort | xargs sha256sum); }

(start whole own) || fail "the run that is not disturbed: $(cat "$work/whole.log")"
content own > "$work/expected"
[ "$(wc -l < "$work/expected")" -gt 40 ] || fail "the cache of the undisturbed run is too small to test with"

# kill -9 while the cache is being filled
for round in $(seq 8); do
  start killed first & job=$!
  sleep "0.$((RANDOM % 6))$((RANDOM % 10))"
  kill -KILL "$job" 2> /dev/null || true
  wait "$job" 2> /dev/null || true
  for file in $(entries first); do
    "$program" inspect "$file" > /dev/null || fail "kill -9 leaves a damaged $file"
  done
done
(start killed first) || fail "after kill -9: $(tail -3 "$work/killed.log")"
content first | diff - "$work/expected" || fail "after kill -9 the cache is another one"
cmp "$work/killed/shared.safetensors" "$work/whole/shared.safetensors" || fail "kill -9 changes the result"

# two runs that fill one cache, one of which dies
for pair in "one two" "three four"; do
  set -- $pair
  cache=cache-$1
  start "$1" "$cache" & first=$!
  start "$2" "$cache" & second=$!
  if [ "$1" = three ]; then sleep 0.3; kill -KILL "$first" 2> /dev/null || true; fi
  status=0
  wait "$first" || status=$?
  [ "$1" = three ] || [ "$status" = 0 ] || fail "the first of two: $(tail -3 "$work/$1.log")"
  wait "$second" || fail "the second of two: $(tail -3 "$work/$2.log")"
  content "$cache" | diff - "$work/expected" || fail "two runs make another cache"
  cmp "$work/$2/shared.safetensors" "$work/whole/shared.safetensors" || fail "sharing changes the result"
done
echo passed
