#!/usr/bin/env bash
# run.sh - installs what is missing, builds, and runs every test that this machine can run. Exit status 0: all passed.
#
#   ./tests/run.sh            everything: quick suite, emulated CUDA gates, end to end, 200 simulator seeds, and the quick suite
#                             again under ASan+UBSan and under TSan; tests/README.md has the time of each part
#   ./tests/run.sh --quick    the quick suite alone (units, ops, wire, corpora, lint): under 10 minutes on 2 cores
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
-h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
"" | --quick) ;;
*) echo "run.sh: unknown option '$1' (--quick, --help)" >&2; exit 2 ;;
esac

./deploy/install-deps.sh build test
./tests/dev quick
if [ "${1:-}" != --quick ]; then
  ./tests/dev slow
  ./tests/dev e2e
  ./tests/dev sim --seeds 200
  ./tests/dev san address
  ./tests/dev san thread
fi
