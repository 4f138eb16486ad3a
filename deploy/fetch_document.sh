#!/bin/sh
# Prints the path of the demo's document as its only line on stdout: two of CMake's own manuals, one after the other, as the
# installed cmake prints them (more than 8,000 tokens of the demo's model; prose with examples, perplexity about 7 under full
# attention). Written once to the cache. `longwave demo --document FILE` takes any other text of at least 7,000 tokens;
# docs/benchmarks.md has the figures for the GPL, version 3, as well.
set -eu

cache=${XDG_CACHE_HOME:-$HOME/.cache}/longwave
document=$cache/cmake-manuals.txt

if [ ! -s "$document" ]; then
    command -v cmake >/dev/null || { echo "fetch_document: cmake is missing (deploy/install-deps.sh)" >&2; exit 1; }
    mkdir -p "$cache"
    { cmake --help-manual cmake-buildsystem; cmake --help-manual cmake-packages; } >"$document.new"
    mv "$document.new" "$document"
fi
echo "$document"
