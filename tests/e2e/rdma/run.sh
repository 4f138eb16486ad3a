#!/usr/bin/env bash
# run.sh - put, fetch and kill over RDMA verbs: boots the distribution's kernel with soft-RoCE (rdma_rxe) in qemu, with this
# machine's tree mounted read-only, and runs guest-test in it. The machine's own kernel needs no InfiniBand and no module.
#
#   tests/e2e/rdma/run.sh [--build DIR]    about 2 minutes with /dev/kvm, 5 without. Exit status 0: passed.
#
# The guest's console goes to DIR/rdma/console.log. Packages: deploy/install-deps.sh rdma.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
build=$root/build
case "${1:-}" in
-h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
--build) build=$(cd "$2" && pwd) ;;
"") ;;
*) echo "rdma: unknown option '$1' (--build, --help)" >&2; exit 2 ;;
esac
[ -x "$build/storaged/storaged" ] || { echo "rdma: $build holds no storaged; tests/dev build" >&2; exit 1; }
work=$build/rdma
mkdir -p "$work"

# What the guest loads, and what these need: drivers of the virtual machine, the host's tree over 9p, soft-RoCE.
folders="kernel/drivers/virtio kernel/net/9p kernel/net/core kernel/net/ipv6 kernel/net/ipv4/udp_tunnel.ko kernel/fs/9p kernel/fs/netfs
  kernel/fs/fscache kernel/fs/overlayfs kernel/fs/configfs kernel/drivers/net/veth.ko kernel/drivers/infiniband/core
  kernel/drivers/infiniband/sw/rxe kernel/crypto kernel/lib"

kernel() { # downloads and unpacks the distribution's kernel image; sets $version and $vmlinuz
  local package=linux-image-amd64
  if ! ls "$work"/image/boot/vmlinuz-* >/dev/null 2>&1; then
    package=$(apt-cache depends "$package" | awk '/Depends: linux-image/ { print $2; exit }')
    [ -n "$package" ] || { echo "rdma: the distribution has no linux-image-amd64 (apt-get update?)" >&2; exit 1; }
    (cd "$work" && rm -f ./*.deb && apt-get download -qq "$package" 2>/dev/null && dpkg -x ./*.deb image && rm -f ./*.deb)
  fi
  vmlinuz=$(ls "$work"/image/boot/vmlinuz-* | head -n 1)
  version=${vmlinuz##*/vmlinuz-}
}
initramfs() { # busybox, guest-init and the modules
  local from=$work/image/lib/modules/$version to=$work/init
  [ -d "$from" ] || from=$work/image/usr/lib/modules/$version
  rm -rf "$to"
  mkdir -p "$to/bin" "$to/lib/modules/$version"
  cp "$(command -v busybox || echo /bin/busybox)" "$to/bin/busybox"
  cp "$here/guest-init" "$to/init"
  chmod +x "$to/init"
  (cd "$from" && cp modules.builtin modules.builtin.modinfo modules.order "$to/lib/modules/$version/" &&
    for folder in $folders; do [ ! -e "$folder" ] || cp -r --parents "$folder" "$to/lib/modules/$version/"; done)
  PATH=$PATH:/usr/sbin:/sbin depmod -b "$to" "$version"
  (cd "$to" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd.gz"
}

"$root/deploy/install-deps.sh" rdma
kernel
initramfs
[ -w /dev/kvm ] && speed="-accel kvm -cpu host" || speed="-accel tcg,thread=multi -cpu max"
echo "rdma: Linux $version in qemu (${speed%% -cpu*}); console in $work/console.log"
# shellcheck disable=SC2086
timeout 900 qemu-system-x86_64 $speed -smp 2 -m 3072 -nographic -no-reboot -nic none -kernel "$vmlinuz" \
  -initrd "$work/initrd.gz" -append "console=ttyS0 quiet panic=-1 lw_build=$build lw_test=$here/guest-test" \
  -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap </dev/null >"$work/console.log" 2>&1 || true
grep -a '^rdma: ' "$work/console.log" | tr -d '\r' || true
grep -aq '^rdma: passed' "$work/console.log"
