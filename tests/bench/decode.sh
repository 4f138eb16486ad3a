#!/usr/bin/env bash
# decode.sh - tables of `longwave bench` for docs/benchmarks.md. A row is one run; its JSON goes to OUT.
#
#   tests/bench/decode.sh SUITE...
#     hit      everything in the cache, 128K and 1M tokens, both budgets, beside full attention
#     miss     local mode and three daemons over shm: wanted hit ratios, and what drifting queries give
#     build    index building at 128K, all layers and heads
#     tokens   whole decode steps, batches 1 to 16, beside full attention
#     small    minutes on a machine without a GPU: whether all of it runs
#
# BUILD: build tree (build). OUT: folder for JSON and the table (decode-out). LW_BENCH_BACKEND: cuda (small: cpu). LW_BENCH_ROW_S: most
# seconds of a row (240); a row that takes longer or fails is in the table as such, and the exit status is 1.
set -uo pipefail
cd "$(dirname "$0")/../.."
build=$(cd "${BUILD:-build}" && pwd) || exit 2
out=${OUT:-decode-out}
mkdir -p "$out"
longwave=$build/client/cli/longwave
backend=${LW_BENCH_BACKEND:-cuda}
limit=${LW_BENCH_ROW_S:-240}
export LWK_CUDA_LIBRARY=${LWK_CUDA_LIBRARY:-$build/kernels/cuda/liblwk_cuda.so}
export LW_LLAMA_CUDA_LIBRARY=${LW_LLAMA_CUDA_LIBRARY:-$build/client/examples/llama/cuda/liblw_llama_cuda.so}
fleet="" fleet_dir="" failed=0 rows=()

# row NAME WORD ARGS...: one run of `longwave bench WORD`.
row() {
  local name=$1 word=$2
  shift 2
  echo "=== $name: longwave bench $word $*" >>"$out/decode.log"
  if timeout "$limit" "$longwave" bench "$word" --quiet --backend "$backend" "$@" --json "$out/$name.json" >>"$out/decode.log" 2>"$out/.error"; then
    rows+=("$name")
  else
    failed=1
    cat "$out/.error" >>"$out/decode.log"
    echo "$name: $(tail -n 1 "$out/.error" | cut -c1-160)"
  fi
}

start_fleet() { # ARENA of each of three daemons
  fleet_dir=$(mktemp -d)
  fleet=$(STORAGED=$build/storaged/storaged deploy/local-fleet.sh start "$fleet_dir" 3 --mem.arena_bytes "$1" --log.level warn) || return 1
}

stop_fleet() {
  [ -n "$fleet_dir" ] || return 0
  deploy/local-fleet.sh stop "$fleet_dir" || failed=1
  rm -rf "$fleet_dir"
  fleet="" fleet_dir=""
}
trap stop_fleet EXIT


run_hit() {
  local context budget
  for context in 131072 1048576; do
    for budget in 12000 32000; do
      row "hit-$context-$budget" decode --context $context --layers 10 --budget $budget --hits 1 --cache 0.2 --graph --baseline full
    done
  done
}

run_miss() {
  local hits budget
  for budget in 12000 32000; do
    for hits in 0.80 0.90 0.95 0.99 natural; do
      local steer=(--hits "$hits" --warm-up 24)
      [ $hits = natural ] && steer=()
      row "local-$budget-$hits" decode --context 131072 --layers 10 --budget $budget "${steer[@]}" --graph --ceiling
    done
  done
  start_fleet 8g || { failed=1; return; }
  for budget in 12000 32000; do
    for hits in 0.80 0.95 natural; do
      local steer=(--hits "$hits" --warm-up 24)
      [ $hits = natural ] && steer=()
      row "shm-$budget-$hits" decode --context 131072 --layers 10 --budget $budget "${steer[@]}" --graph --ceiling --transport shm --fleet "$fleet"
    done
  done
  stop_fleet
}

run_build() {
  row "build-128k" decode --context 131072 --steps 8 --samples 16 --graph
}

run_tokens() {
  local batch layers
  for batch in 1 4 8 16; do
    layers=$((80 / batch)) # 43 GB of K and V where they are many
    [ $layers -gt 32 ] && layers=32
    row "tokens-$batch" tokens --context 131072 --batch $batch --layers $layers --budget 12000 --steps 32 --baseline full
  done
}

run_small() {
  backend=${LW_BENCH_BACKEND:-cpu}
  start_fleet 64m || { failed=1; return; }
  row small-tcp decode --shape tiny --context 4200 --steps 8 --warm-up 4 --transport tcp --fleet "$fleet" --baseline full --ceiling
  row small-hits decode --shape tiny --context 4200 --steps 8 --warm-up 12 --hits 0.9 --transport tcp --fleet "$fleet" --batch 2
  stop_fleet
}

for suite in "$@"; do
  case $suite in
  hit | miss | build | tokens | small) "run_$suite" ;;
  *) sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
done
[ $# -gt 0 ] || { sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ ${#rows[@]} -eq 0 ] || (cd "$out" && python3 "$OLDPWD/tests/bench/decode_table.py" "${rows[@]/%/.json}") | tee "$out/decode.md"
exit $failed
