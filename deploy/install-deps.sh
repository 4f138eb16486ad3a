#!/usr/bin/env bash
# install-deps.sh [build|test|bench|rdma] ... - installs what is missing of the distribution's packages (Debian 12, Ubuntu 24.04).
# Words add up: build (default) compiles and runs everything; test adds what the test suite uses; bench adds rivals and tools;
# rdma adds what boots a guest with soft-RoCE.
# Needs root or sudo only when something is missing. Prints one line when there is nothing to do.
set -euo pipefail

case "${1:-}" in -h | --help) sed -n '2,5s/^# //p' "$0"; exit 0 ;; esac

build="build-essential cmake ninja-build pkg-config ca-certificates python3 python3-pip
  libucx-dev libgrpc-dev libprotobuf-c-dev protobuf-c-compiler libuv1-dev libnuma-dev liburing-dev libsqlite3-dev
  libmicrohttpd-dev libxxhash-dev libopenblas-pthread-dev"
test="libcmocka-dev openssl python3-grpcio python3-protobuf protobuf-compiler protobuf-compiler-grpc procps git etcd-server"
bench="redis-server libhiredis-dev iperf3 ucx-utils clang libclang-rt-14-dev"
rdma="qemu-system-x86 busybox-static kmod cpio rdma-core ibverbs-providers ibverbs-utils iproute2 ucx-utils"

wanted=$build
for word in "$@"; do
  case "$word" in
  build) ;;
  test) wanted="$wanted $test" ;;
  bench) wanted="$wanted $bench" ;;
  rdma) wanted="$wanted $rdma" ;;
  *) echo "install-deps.sh: unknown word '$word' (build, test, bench, rdma)" >&2; exit 2 ;;
  esac
done

missing=()
for package in $wanted; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "install-deps: nothing is missing"
  exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "install-deps: missing ${missing[*]}; run as root or install sudo" >&2; exit 1; }
  as_root=(sudo)
fi
echo "install-deps: installing ${missing[*]}"
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
  </dev/null >/tmp/longwave-install.$$.log 2>&1 || { tail -n 20 /tmp/longwave-install.$$.log >&2; exit 1; }
rm -f /tmp/longwave-install.$$.log
