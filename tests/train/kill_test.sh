#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs that are killed at random moments, interrupted and terminated: whatever the moment, no half
# file is left, and the run that goes on ends with the bytes of one that never stopped.
#   kill_test.sh PROGRAM SOURCE_DIR
set -euo pipefail
program=$1 source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
RANDOM=20260301

cat > "$work/run.toml" <<END
[model]
path = "tiny"
text_tokens = 16
[subject]
name = "killed"
trigger = "zorbot"
[dataset]
path = "$source/assets/sample-dataset"
resolution = 64
cache = "$work/cache"
[lora]
rank = 2
[train]
steps = 60
batch_size = 5
accumulation = 2
caption_dropout = 0.3
schedule = "cosine"
[validate]
every = 6
stop = false
[sample]
every = 20
steps = 2
prompts = ["a [trigger]"]
[output]
checkpoint_every = 7
END

fail() { echo "FAILED: $*" >&2; exit 1; }

# Run NAME with more options, this shell's process replaced.
start() {
  exec "$program" train "$work/run.toml" --set output.path="$work/$1" "${@:2}" 2>> "$work/$1.log"
}
train() { (start "$@"); }

# Everything with a name of its own must be whole.
check_whole() {
  local file
  while IFS= read -r file; do
    "$program" inspect "$file" > /dev/null || fail "$file is damaged"
  done < <(find "$work/$1" -name '*.safetensors' -not -path '*/.step-*')
}

# What must not depend on stops, in one listing.
content() {
  (cd "$work/$1" && find . -name '*.safetensors' -o -name '*.png' | sort | xargs sha256sum &&
    sed 's/"seconds":[^,}]*//' metrics.jsonl)
}

train whole || fail "the run that is not stopped: $(cat "$work/whole.log")"
content whole > "$work/expected"

# kill -9
for round in $(seq 12); do
  start killed --resume & job=$!
  sleep "0.$((RANDOM % 9))$((RANDOM % 10))"
  kill -KILL "$job" 2> /dev/null || true
  wait "$job" 2> /dev/null && break || true
  [ -d "$work/killed" ] && check_whole killed
done
train killed --resume || fail "after kill -9: $(tail -3 "$work/killed.log")"
content killed | diff - "$work/expected" || fail "after kill -9 the run is another one"
[ -z "$(find "$work/killed" -name '.*' -not -name killed)" ] || fail "kill -9 leaves dot files"

# Ctrl-C and kill: the step is finished, the state saved, the exit status says which.
for signal in INT:130 TERM:143; do
  name=${signal%:*}
  start "$name" & job=$!
  until grep -qs '"loss"' "$work/$name/metrics.jsonl" || ! kill -0 "$job" 2> /dev/null; do sleep 0.05; done
  kill -"$name" "$job"
  status=0
  wait "$job" || status=$?
  [ "$status" = "${signal#*:}" ] || fail "SIG$name gives $status: $(cat "$work/$name.log")"
  steps=$(grep -c '"loss"' "$work/$name/metrics.jsonl")
  [ -f "$(printf '%s/checkpoints/step-%06d/state.safetensors' "$work/$name" "$steps")" ] ||
    fail "SIG$name after step $steps saves nothing"
  train "$name" --resume || fail "after SIG$name: $(tail -3 "$work/$name.log")"
  content "$name" | diff - "$work/expected" || fail "after SIG$name the run is another one"
done
echo passed
