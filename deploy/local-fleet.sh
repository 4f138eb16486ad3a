#!/usr/bin/env bash
# local-fleet.sh - storaged processes on this machine's loopback, for the demo, benchmarks and trying things out.
#
#   local-fleet.sh start DIR COUNT [storaged options]   starts COUNT nodes; state and logs in DIR; prints their control addresses
#   local-fleet.sh stop DIR                             ends them (SIGTERM, by pid) and says if one did not exit with 0
#
# STORAGED names the binary (default: build/storaged/storaged beside this folder).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
storaged=${STORAGED:-$root/build/storaged/storaged}

usage() { sed -n '2,7s/^# \{0,1\}//p' "$0"; }

free_ports() { # COUNT: distinct TCP ports of loopback that nobody listens on now
  python3 - "$1" <<'PY'
import socket, sys
held = [socket.socket() for _ in range(int(sys.argv[1]))]
for s in held: s.bind(("127.0.0.1", 0))
print("\n".join(str(s.getsockname()[1]) for s in held))
PY
}

give_up() { # DIR NODE WHY: says so and leaves nothing running
  echo "local-fleet: node $2 $3:" >&2
  tail -n 5 "$1/node$2.log" >&2
  stop "$1" || true
}

start() {
  local dir=$1 count=$2; shift 2
  local ports addresses fleet i file
  for file in "$dir"/node*.pid; do
    [ -e "$file" ] && kill -0 "$(cat "$file")" 2>/dev/null || continue
    echo "local-fleet: pid $(cat "$file") of $file still runs: local-fleet.sh stop $dir" >&2
    return 1
  done
  mkdir -p "$dir"
  mapfile -t ports < <(free_ports "$count")
  addresses=("${ports[@]/#/127.0.0.1:}")
  fleet=$(IFS=,; echo "${addresses[*]}")
  for ((i = 0; i < count; i++)); do
    rm -f "$dir/node$i.ready"
    "$storaged" --ready-file "$dir/node$i.ready" --ctl.listen "${addresses[i]}" --fleet.nodes "$fleet" --data.listen 127.0.0.1:0 \
      --ctl.http 127.0.0.1:0 --catalogue.path "$dir/catalogue.sqlite" "$@" >"$dir/node$i.log" 2>&1 &
    echo $! >"$dir/node$i.pid"
  done
  for ((i = 0; i < count; i++)); do
    local waited=0
    until [ -s "$dir/node$i.ready" ]; do
      kill -0 "$(cat "$dir/node$i.pid")" 2>/dev/null || { give_up "$dir" "$i" "ended"; return 1; }
      [ $((waited += 1)) -lt 600 ] || { give_up "$dir" "$i" "is not ready after 60 s"; return 1; }
      sleep 0.1
    done
  done
  echo "$fleet"
}

stop() {
  local dir=$1 bad=0 file pid waited
  for file in "$dir"/node*.pid; do
    [ -e "$file" ] || continue
    kill -TERM "$(cat "$file")" 2>/dev/null || true
  done
  for file in "$dir"/node*.pid; do
    [ -e "$file" ] || continue
    pid=$(cat "$file") waited=0
    while kill -0 "$pid" 2>/dev/null; do
      if [ $((waited += 1)) -gt 100 ]; then
        echo "local-fleet: pid $pid did not end within 10 s of SIGTERM" >&2
        kill -KILL "$pid" 2>/dev/null || true
        bad=1
        break
      fi
      sleep 0.1
    done
    rm -f "$file"
  done
  return $bad
}

case "${1:-}" in
start) [ $# -ge 3 ] || { usage >&2; exit 2; }; shift; start "$@" ;;
stop) [ $# -eq 2 ] || { usage >&2; exit 2; }; stop "$2" ;;
-h | --help) usage ;;
*) usage >&2; exit 2 ;;
esac
