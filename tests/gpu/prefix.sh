#!/usr/bin/env bash
# prefix.sh - brings the libraries that Longwave builds on to a machine without them and without a network.
#
#   prefix.sh fetch DIR           on a Debian 12 machine: downloads the packages that ./packages lists (about 33 MiB)
#   prefix.sh unpack DIR PREFIX   on the other machine: unpacks them under PREFIX, touches nothing else, and writes PREFIX/env
#
# Then:  . PREFIX/env && cmake -S . -B build -G Ninja $LW_PREFIX_CMAKE
#
# The libraries are found by run path. LD_LIBRARY_PATH stays unset: with it, the machine's own programs would load these
# libraries too, and some of them break.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
word=${1:-help}

fetch() { # DIR
  mkdir -p "$1"
  local names
  names=$(grep -v '^#' "$here/packages")
  # shellcheck disable=SC2086
  (cd "$1" && apt-get download -o APT::Sandbox::User=root $names)
  du -ch "$1"/*.deb | tail -1
}

# A program of the prefix sees the prefix's libraries, and nobody else does.
wrap() { # PREFIX LIBRARIES PROGRAM
  [ -x "$1/usr/bin/$3" ] || return 0
  { echo '#!/bin/sh'; echo "LD_LIBRARY_PATH=$2 exec $1/usr/bin/$3 \"\$@\""; } >"$1/bin/$3"
  chmod +x "$1/bin/$3"
}

unpack() { # DIR PREFIX
  local prefix libraries deb program
  mkdir -p "$2/bin"
  prefix=$(cd "$2" && pwd)
  libraries=$prefix/usr/lib/x86_64-linux-gnu
  for deb in "$1"/*.deb; do dpkg -x "$deb" "$prefix"; done
  # Debian keeps some libraries behind alternatives, which are links into /etc.
  local blas=$libraries/openblas-pthread
  if [ -d "$blas" ]; then
    for file in "$blas"/libopenblas*.so*; do ln -sf "openblas-pthread/${file##*/}" "$libraries/${file##*/}"; done
    [ -f "$libraries/pkgconfig/openblas.pc" ] || cp "$blas"/pkgconfig/openblas.pc "$libraries/pkgconfig/" 2>/dev/null || true
  fi
  # What a static link would need is not here.
  sed -i '/^Requires.private/d' "$libraries"/pkgconfig/*.pc
  for program in pkg-config protoc-c ucx_info ucx_perftest numactl; do wrap "$prefix" "$libraries" "$program"; done
  local link="-Wl,--disable-new-dtags,-rpath,$libraries -Wl,-rpath-link,$libraries"
  cat >"$prefix/env" <<END
export PATH=$prefix/bin:\$PATH
export PKG_CONFIG_SYSROOT_DIR=$prefix
export PKG_CONFIG_LIBDIR=$libraries/pkgconfig:$prefix/usr/lib/pkgconfig:$prefix/usr/share/pkgconfig
export LW_PREFIX_CMAKE="-DCMAKE_PREFIX_PATH=$prefix/usr -DPKG_CONFIG_EXECUTABLE=$prefix/bin/pkg-config"
export LDFLAGS="$link \${LDFLAGS:-}"
END
  echo "$prefix: $(du -sm "$prefix" | cut -f1) MiB"
}

case "$word" in
fetch) fetch "${2:?prefix.sh fetch DIR}" ;;
unpack) unpack "${2:?prefix.sh unpack DIR PREFIX}" "${3:?prefix.sh unpack DIR PREFIX}" ;;
*) sed -n '2,11s/^# \{0,1\}//p' "$0"; [ "$word" = help ] ;;
esac
