#!/usr/bin/env bash
# demo.sh [--json FILE] [options of `longwave demo`] - the main job on this machine: installs what is missing, builds, fetches the
# model, starts three storaged, and lets the model read a document and answer with its KV in them. Exit status 0 only if the gates
# hold. A second run reuses packages, build and model.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
case "${1:-}" in -h | --help) sed -n '2,4s/^# //p' "$0"; exit 0 ;; esac

step() { printf '== %s\n' "$*" >&2; }

step "packages"
"$root/deploy/install-deps.sh" build
step "build"
cmake -S "$root" -B "$root/build" -G Ninja >"$root/build.log" 2>&1 || { cat "$root/build.log" >&2; exit 1; }
ninja -C "$root/build" storaged longwave_cli >"$root/build.log" 2>&1 || { tail -n 40 "$root/build.log" >&2; exit 1; }
rm -f "$root/build.log"
step "model and document"
model=$("$root/deploy/fetch_model.sh")
document=$("$root/deploy/fetch_document.sh")

state=$(mktemp -d)
fleet_up=
clean() {
  [ -z "$fleet_up" ] || "$root/deploy/local-fleet.sh" stop "$state" || true
  rm -rf "$state"
}
trap clean EXIT
step "three storaged on loopback"
fleet_up=1
fleet=$("$root/deploy/local-fleet.sh" start "$state" 3 --mem.arena_bytes "${LW_DEMO_ARENA:-512m}")
step "longwave demo, fleet $fleet"
"$root/build/client/cli/longwave" demo --model "$model" --document "$document" --fleet "$fleet" "$@"
