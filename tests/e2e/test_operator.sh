#!/usr/bin/env bash
# test_operator.sh LONGWAVE STORAGED - the operator's commands against two real daemons.
set -euo pipefail
longwave=$1
export STORAGED=$2
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d)
fail() { echo "test_operator: $1" >&2; exit 1; }
finish() { "$root/deploy/local-fleet.sh" stop "$dir" || true; rm -rf "$dir"; }
trap finish EXIT

fleet=$("$root/deploy/local-fleet.sh" start "$dir" 2 --mem.arena_bytes=32m)
"$root/deploy/local-fleet.sh" start "$dir" 2 --mem.arena_bytes=32m 2>"$dir/err" && fail "a fleet starts over a running one"
grep -q "still runs" "$dir/err" || fail "local-fleet does not say which node runs"
mkdir "$dir/broken"
"$root/deploy/local-fleet.sh" start "$dir/broken" 2 --mem.arena_bytes=1 2>"$dir/err" && fail "a fleet starts with a wrong option"
grep -q "mem.arena_bytes" "$dir/err" || fail "local-fleet does not say why a node ended"
[ -z "$(ls "$dir"/broken/*.pid 2>/dev/null)" ] || fail "a fleet that did not start is still there"

"$longwave" status --fleet "$fleet" --json "$dir/status.json" || fail "status of a healthy fleet is not 0"
python3 - "$dir/status.json" <<'PY' || fail "status --json"
import json, sys
s = json.load(open(sys.argv[1]))
assert len(s["nodes"]) == 2 and all(n["ready"] and n["free_bytes"] > 0 for n in s["nodes"])
assert sum(n["holds_catalogue"] for n in s["nodes"]) == 1
PY
"$longwave" status --fleet "$fleet" | grep -q catalogue || fail "status names no catalogue"
"$longwave" sessions --fleet "$fleet" --json | python3 -c 'import json, sys; assert json.load(sys.stdin)["sessions"] == []' || fail "sessions --json"
for verb in show pin unpin drop; do
  "$longwave" sessions $verb 4711 --fleet "$fleet" 2>"$dir/err" && fail "$verb of an unknown session is 0"
  grep -q "no such session" "$dir/err" || fail "$verb does not say why"
done
"$longwave" nodes --fleet "$fleet" | grep -q " up " || fail "nodes shows none that is up"
"$longwave" drain 7 --fleet "$fleet" 2>"$dir/err" && fail "draining a node that is not there is 0"
grep -q "has no node 7" "$dir/err" || fail "drain does not say why"
"$longwave" drain 1 --deadline 20 --fleet "$fleet" | grep -q "is empty" || fail "an empty node is not drained"
"$longwave" nodes --fleet "$fleet" --json | python3 -c '
import json, sys
nodes = json.load(sys.stdin)["nodes"]
assert [n["state"] for n in nodes] == ["up", "draining"] and all(n["placed"] == 0 for n in nodes), nodes' || fail "nodes --json"
"$longwave" drain 1 --cancel --fleet "$fleet" || fail "a drain cannot be taken back"
for wrong in "drain" "drain 1 --deadline x" "drain 1 2" "nodes 1" "sessions show" "sessions show x" "sessions fly 1" "status --nonsense" "doctor extra"; do
  code=0; "$longwave" $wrong >/dev/null 2>&1 || code=$?
  [ "$code" = 2 ] || fail "'$wrong' gives $code, not 2"
done
head -c 2000000 /dev/zero >"$dir/large.pem"
LW_TLS_CA="$dir/large.pem" "$longwave" status --fleet "$fleet" 2>"$dir/err" && fail "a certificate file that does not fit is cut"
grep -q "is larger than" "$dir/err" || fail "a certificate file that does not fit is not named"
if "$longwave" --help | grep -q '^  demo '; then
  "$longwave" demo --model /dev/null --document /dev/null --backend cuda 2>"$dir/err" && fail "the demo's host tensors go to a device"
  grep -q "must be cpu or ref" "$dir/err" || fail "the demo does not name its backends"
fi
for command in status nodes drain sessions doctor; do
  "$longwave" $command --help | grep -q "longwave $command" || fail "$command --help"
done
"$longwave" doctor --json | python3 -c 'import json, sys; d = json.load(sys.stdin); assert d["usable"] and len(d["checks"]) >= 8' || fail "doctor --json"
kill "$(cat "$dir/node1.pid")"
for _ in $(seq 100); do kill -0 "$(cat "$dir/node1.pid")" 2>/dev/null || break; sleep 0.1; done
"$longwave" status --fleet "$fleet" >"$dir/out" && fail "status with a dead node is 0"
rm -f "$dir/node1.pid"
grep -q "does not answer" "$dir/out" || fail "status does not show the dead node"
echo "operator commands: ok"
