#!/bin/bash
# Called once, inside the unpacked Debian: build mtty with the lab's switches, make the two initial RAM disks, tidy up.
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
KERNEL=$(basename /lib/modules/*)

# mtty, the kernel's own sample of a mediated device that can migrate, out of Debian's kernel source
mkdir -p /build/mtty
tar xf /usr/src/linux-source-*.tar.xz -C /build/mtty --strip-components=3 --wildcards '*/samples/vfio-mdev/mtty.c'
cd /build/mtty
# The switches count when a device is made. Debian 13's kernel has no IOMMUFD, so a driver's own dirty log fails there.
sed -i -e '/^static int mtty_init_dev(/i\
static bool lab_p2p = true, lab_dirty, lab_migratable = true, lab_network;\
module_param(lab_p2p, bool, 0644);\
module_param(lab_dirty, bool, 0644);\
module_param(lab_migratable, bool, 0644);\
module_param(lab_network, bool, 0644);' -e '/vdev->log_ops = &mtty_log_ops;/a\
	if (!lab_p2p)\
		vdev->migration_flags \&= ~VFIO_MIGRATION_P2P;\
	if (!lab_dirty)\
		vdev->log_ops = NULL;\
	if (!lab_migratable) {\
		vdev->migration_flags = 0;\
		vdev->mig_ops = NULL;\
	}\
	if (lab_network) {\
		mdev_state->vconfig[0xa] = 0x00;\
		mdev_state->vconfig[0xb] = 0x02;\
	}' mtty.c
[ "$(grep -c lab_network mtty.c)" = 3 ] || { echo "mtty.c is not as the lab knows it" >&2; exit 1; }
echo 'obj-m += mtty.o' > Makefile
make -s -C "/lib/modules/$KERNEL/build" M=/build/mtty modules
cp mtty.ko /guest/

# disk NAME MODULE...: an initial RAM disk with busybox, /guest/NAME.sh as init, and modules in order
disk() {
  local name=$1 root; root=$(mktemp -d); shift
  mkdir -p "$root"/{bin,dev,proc,sys,ro,rw,root,m}
  cp /bin/busybox "$root/bin/"; ln -s busybox "$root/bin/sh"; cp "/guest/$name.sh" "$root/init"; chmod +x "$root/init"
  for module in "$@"; do modprobe -S "$KERNEL" --show-depends "$module"; done |
    awk '$1 == "insmod" && !seen[$2]++ {print $2}' | while read -r file; do
      short=$(basename "${file%.xz}")
      case $file in *.xz) xz -dc "$file" ;; *) cat "$file" ;; esac > "$root/m/$short"
      echo "$short" >> "$root/m/order"
    done
  (cd "$root" && find . | cpio -o -H newc --quiet) | gzip -1 > "/guest/$name.gz"
  rm -rf "$root"
}
disk outer virtio_pci 9pnet_virtio 9p overlay
disk inner virtio_pci virtio_net net_failover e1000e

cp "/boot/vmlinuz-$KERNEL" /guest/kernel
chmod -R a+rX /guest
rm -rf /build /usr/src/* /usr/lib/gcc /usr/share/doc /usr/share/man /usr/share/locale /var/cache/apt /boot/*
