#!/usr/bin/env bash
# run.sh - what only a machine with a GPU can tell. Called by `tests/dev gpu WORD`.
#
#   tests/dev gpu ops        builds kernels/ and their tests; runs the op matrix, the gates, the build ops and the dialect
#   tests/dev gpu sanitize   compute-sanitizer over a part of the matrix and over the dialect: memcheck, racecheck
#   tests/dev gpu bench      tests/bench/layer_step and full attention, one table
#   tests/dev gpu e2e        the whole tree; real processes with the CUDA backend, over shared memory and tcp
#   tests/dev gpu all        the four, in at most 9 minutes
#
# Prints a short table last; logs are in ${OUT:-build-gpu/out}. LW_GPU_DEBS is a folder that tests/gpu/prefix.sh fetched (.gpu/debs
# when it is there): e2e needs it where UCX and gRPC are not installed, the gates need its cmocka. LW_JOBS: parallel jobs.
set -uo pipefail
cd "$(dirname "$0")/../.."
jobs=${LW_JOBS:-$(nproc)}
out=${OUT:-build-gpu/out}
mkdir -p "$out"
out=$(cd "$out" && pwd)
summary=$out/summary.txt
: >"$summary"
debs=${LW_GPU_DEBS:-.gpu/debs}
prefix=$PWD/build-gpu/prefix
failed=0

# say NAME STATUS SECONDS NOTE
say() { printf '%-34s %-6s %6s s  %s\n' "$1" "$2" "$3" "$4" >>"$summary"; }

# step LOG NAME LIMIT COMMAND...: runs it, appends to LOG.log, adds a row; 77 is a skip.
step() {
  local log=$out/$1.log name=$2 limit=$3 began ended status word note
  shift 3
  began=$(date +%s.%N)
  echo "=== $name: $*" >>"$log"
  timeout "$limit" "$@" >"$out/.one" 2>&1
  status=$?
  ended=$(date +%s.%N)
  cat "$out/.one" >>"$log"
  case $status in
  0) word=ok ;;
  77) word=skip ;;
  124) word=LATE; failed=1 ;;
  *) word=FAIL; failed=1 ;;
  esac
  note=$(grep -E 'rows, |PASSED|FAILED|ERROR SUMMARY|RACECHECK SUMMARY|tests passed' "$out/.one" | tail -1 | cut -c1-90)
  [ "$word" = FAIL ] && note="status $status; $note"
  say "$name" "$word" "$(echo "$ended $began" | awk '{printf "%.1f", $1 - $2}')" "$note"
  if [ "$word" = FAIL ] || [ "$word" = LATE ]; then
    echo "--- $name: $word"
    grep -vE '^\[ +(RUN|OK)' "$out/.one" | tail -"${LW_GPU_LINES:-25}"
  fi
  rm -f "$out/.one"
  return $status
}

use_prefix() {
  [ -d "$debs" ] || return 0
  [ -f "$prefix/env" ] || tests/gpu/prefix.sh unpack "$debs" "$prefix" >>"$out/build.log" 2>&1
  # shellcheck disable=SC1091
  . "$prefix/env"
}

build_kernels() {
  use_prefix
  # shellcheck disable=SC2086
  step build "configure kernels" 120 cmake -S . -B build-gpu/kernels -G Ninja -DLW_KERNELS_ONLY=ON ${LW_PREFIX_CMAKE:-} \
    ${LW_CMAKE_ARGS:-} || return 1
  step build "build kernels" 300 cmake --build build-gpu/kernels -j "$jobs" || return 1
  export LWK_CUDA_LIBRARY=$PWD/build-gpu/kernels/kernels/cuda/liblwk_cuda.so
}

tests_dir=build-gpu/kernels/tests

run_ops() {
  build_kernels || return
  local dialect=$tests_dir/unit/kernels/test_cuda_lang gates=$tests_dir/ops/test_gates test
  [ -x $dialect ] && step ops "dialect" 60 $dialect
  step ops "op matrix" 150 $tests_dir/ops/test_ops --filter "cuda "
  [ -x $gates ] && step ops "gates" 150 $gates cuda
  for test in $tests_dir/unit/kernels/test_cuda_*; do
    [ -x "$test" ] || continue
    case ${test##*/} in test_cuda_lang | test_cuda_emu) continue ;; esac
    step ops "${test##*/}" 90 "$test"
  done
  step ops "support" 20 $tests_dir/ops/test_ops --support
}

# Under the sanitizer everything is tens of times slower: one shape of each head size, which still reaches every kernel.
run_sanitize() {
  build_kernels || return
  local tool row sanitizer dialect=$tests_dir/unit/kernels/test_cuda_lang
  command -v compute-sanitizer >/dev/null || { say "compute-sanitizer" skip 0 "not installed"; return; }
  sanitizer="compute-sanitizer --error-exitcode 1 --print-limit 20"
  for tool in memcheck racecheck; do
    # shellcheck disable=SC2086
    [ -x $dialect ] && step sanitize "$tool dialect" 60 $sanitizer --tool $tool $dialect
    for row in ${LW_GPU_SANITIZE_ROWS:-d=64 d=128}; do
      # shellcheck disable=SC2086
      step sanitize "$tool op matrix $row" "${LW_GPU_SANITIZE_S:-60}" \
        $sanitizer --tool $tool $tests_dir/ops/test_ops --filter "cuda step $row "
    done
  done
}

run_bench() {
  build_kernels || return
  local bench=$tests_dir/bench/layer_step
  [ -x $bench ] || { say "layer_step" skip 0 "not built"; return; }
  local suite contexts=${LW_GPU_CONTEXTS:-131072,1048576}
  step bench "full attention" 120 python3 tests/bench/full_attention.py --contexts "$contexts" --json "$out/full_attention.json"
  for suite in ${LW_GPU_SUITES:-table misses build}; do
    # shellcheck disable=SC2086
    step bench "layer_step $suite" "${LW_GPU_BENCH_S:-180}" $bench --suite "$suite" --backend cuda --contexts "$contexts" \
      --full "$out/full_attention.json" --json "$out/layer_step_$suite.json" ${LW_GPU_BENCH_ARGS:-}
  done
  grep -hE '^(#|\|)' "$out/bench.log"
}

run_e2e() {
  use_prefix
  # shellcheck disable=SC2086
  step e2e "configure all" 120 cmake -S . -B build-gpu/full -G Ninja ${LW_PREFIX_CMAKE:-} ${LW_CMAKE_ARGS:-} || return
  step e2e "build all" 400 cmake --build build-gpu/full -j "$jobs" || return
  export LWK_CUDA_LIBRARY=$PWD/build-gpu/full/kernels/cuda/liblwk_cuda.so
  # What has the label gpu knows the CUDA backend by itself; the client's own tests take it as their device.
  step e2e "tests labelled gpu" 150 ctest --test-dir build-gpu/full -L gpu --output-on-failure --no-tests=ignore
  LWK_BACKEND=cuda step e2e "e2e with the CUDA backend" 200 ctest --test-dir build-gpu/full -L e2e -R 'session|step|client|fleet' \
    --output-on-failure --no-tests=ignore
}

case "${1:-help}" in
ops) run_ops ;;
sanitize) run_sanitize ;;
bench) run_bench ;;
e2e) run_e2e ;;
all) run_ops; run_bench; run_sanitize; run_e2e ;;
help | -h | --help) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 0 ;;
*) echo "gpu: unknown word '$1'" >&2; sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
{ nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null || echo "no GPU"; } | sed 's/^/device: /'
cat "$summary"
exit $failed
