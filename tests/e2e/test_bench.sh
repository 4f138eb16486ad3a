#!/usr/bin/env bash
# test_bench.sh LONGWAVE STORAGED BACKEND - `longwave bench` in its smallest shape against a daemon: what it reports is sane, what it
# is told wrongly it refuses. BACKEND cpu, or cuda (LWK_CUDA_LIBRARY and LW_LLAMA_CUDA_LIBRARY name what it loads); exit status 77 when
# that is not to be had.
set -euo pipefail
longwave=$1
export STORAGED=$2
backend=$3
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d)
fail() { echo "test_bench: $1" >&2; exit 1; }
finish() { "$root/deploy/local-fleet.sh" stop "$dir" || true; rm -rf "$dir"; }
trap finish EXIT

for wrong in "" "nothing" "decode --shape none" "decode --steps 0" "decode --policy best" "decode --transport tcp" \
  "decode --hits 2" "decode --baseline half" "decode stray"; do
  code=0
  # shellcheck disable=SC2086
  "$longwave" bench $wrong >/dev/null 2>&1 || code=$?
  [ "$code" = 2 ] || fail "'bench $wrong' gives $code, not 2"
done
"$longwave" bench decode --help | grep -q -- --context || fail "bench decode --help"

fleet=$("$root/deploy/local-fleet.sh" start "$dir" 1 --mem.arena_bytes=64m)
# A busy machine and an emulated device are slow: leases and shipping may take their time.
common=(--shape tiny --fleet "$fleet" --backend "$backend" --config "client.lease=5m;client.ship_timeout=5m" --quiet)
if [ "$backend" = cuda ]; then
  code=0
  "$longwave" bench decode "${common[@]}" --context 1200 --steps 2 --warm-up 1 --samples 4 --graph --trace "$dir/trace" --json "$dir/decode" \
    >"$dir/out" 2>"$dir/err" || code=$?
  grep -q "is not to be had" "$dir/err" && { cat "$dir/err"; exit 77; }
  [ $code = 0 ] || fail "bench decode: $(cat "$dir/err")"
  "$longwave" bench tokens "${common[@]}" --context 1200 --steps 2 --warm-up 1 --baseline full --json "$dir/tokens" >"$dir/out" \
    || fail "bench tokens"
  python3 - "$dir/tokens" <<'PY' || fail "bench tokens --json"
import json, sys
model = json.load(open(sys.argv[1]))["model"]
assert model["tokens_per_s"] > 0 and model["full_tokens_per_s"] > 0 and model["full_layers_of_their_own"] == 2
PY
else
  "$longwave" bench decode "${common[@]}" --context 2300 --steps 6 --warm-up 8 --hits 0.9 --batch 2 --baseline full --trace "$dir/trace" \
    --json "$dir/decode" >"$dir/out" || fail "bench decode"
fi
grep -q "layer step" "$dir/out" || grep -q "whole model" "$dir/out" || fail "no table"
python3 - "$dir/decode" "$dir/trace" <<'PY' || fail "bench decode --json"
import json, sys
r = json.load(open(sys.argv[1]))
assert r["layer_step_us_p50"] > 0 and r["layer_step_floor_us"] > 0
assert 0 < r["hit_ratio"] <= 1 and r["fetched_bytes_per_step"] > 0
assert 0 < r["retrieved_token_share"] < r["exact_token_share"] < 1
# The library is close to exact attention where the steady zone alone is not.
assert r["e_out"]["samples"] > 0 and r["e_out"]["mean"] < 0.1 < 0.3 < r["e_out"]["steady_zone_alone"], r["e_out"]
assert set(r["phases_us"]) == {"prepare", "score", "select", "attend", "finish", "admit"}
assert all(us > 0 for us in r["phases_us"].values()), r["phases_us"]
names = [e["name"] for e in json.load(open(sys.argv[2]))["traceEvents"]]
assert names.count("score") == r["layers"] and names.count("fetch") >= 1
PY
echo "bench $backend: ok"
