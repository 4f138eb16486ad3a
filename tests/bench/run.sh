#!/usr/bin/env bash
# run.sh - one word for each thing that is measured; everything after the word goes to the program behind it.
#
#   run.sh store [options]            fabric, store and Redis, interleaved (store.py --help)
#   run.sh ops [--filter TEXT]        every op x backend x shape, in time (test_ops --perf)
#   run.sh quality [options]          policies against full attention on a document, three daemons on loopback; fetches the model
#                                     and, without --document, the demo's document (longwave quality --help)
#   run.sh needle FOLDER [options]    the index on captured tensors (needle_eval)
#
# LW_BUILD names the build folder (default: build). LW_BENCH_ARENA: memory of each daemon of `quality` (512m).
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${LW_BUILD:-$root/build}

usage() { sed -n '2,10s/^# \{0,1\}//p' "$0"; }

program() { # PATH: in the build folder
  [ -x "$build/$1" ] || { echo "bench: no $1 in $build: it was not built; configure says what is missing" >&2; exit 1; }
  echo "$build/$1"
}

fleet_state=
stop_fleet() {
  [ -n "$fleet_state" ] || return 0
  "$root/deploy/local-fleet.sh" stop "$fleet_state" || true
  rm -rf "$fleet_state"
}

quality() {
  local longwave storaged model fleet given=()
  longwave=$(program client/cli/longwave)
  storaged=$(program storaged/storaged)
  case " $* " in *" --help "* | *" --rows help "*) exec "$longwave" quality "$@" ;; esac
  case " $* " in *" --model "*) ;; *) model=$("$root/deploy/fetch_model.sh"); given+=(--model "$model") ;; esac
  case " $* " in *" --document "*) ;; *) given+=(--document "$("$root/deploy/fetch_document.sh")") ;; esac
  fleet_state=$(mktemp -d)
  trap stop_fleet EXIT
  fleet=$(STORAGED=$storaged "$root/deploy/local-fleet.sh" start "$fleet_state" 3 --mem.arena_bytes "${LW_BENCH_ARENA:-512m}")
  "$longwave" quality "${given[@]}" --fleet "$fleet" "$@"
}

word=${1:-help}; shift || true
case "$word" in
store) exec "$root/tests/bench/store.py" --build "$build" "$@" ;;
ops) exec "$(program tests/ops/test_ops)" --perf "$@" ;;
quality) quality "$@" ;;
needle) exec "$(program tests/bench/eval/needle_eval)" "$@" ;;
help | -h | --help) usage ;;
*) echo "bench: unknown word '$word'" >&2; usage >&2; exit 2 ;;
esac
