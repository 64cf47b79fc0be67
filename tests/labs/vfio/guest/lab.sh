#!/bin/bash
# pid 1 of the lab: QEMU 11.1 in /qemu11, a saved guest in /state, real vfio-pci devices,
# and a shell for each connection to port 7000
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /tmp; mkdir -p /qemu11 /state
for share in qemu11 state; do
  mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 $share /$share
done
modprobe virtio_net; ip link set lo up
for each in /sys/class/net/*; do
  [ "$(basename "$(readlink -f "$each/device/driver")")" = virtio_net ] && card=${each##*/}
done
ip addr add 10.0.2.15/24 dev "$card"; ip link set "$card" up
for module in mdev vfio_iommu_type1 vfio_pci; do modprobe $module; done
insmod /guest/mtty.ko
# what cannot migrate: three e1000e, and an NVMe for the block layer
for address in 0000:00:10.0 0000:00:11.0 0000:00:12.0 0000:00:13.0; do
  [ -e /sys/bus/pci/devices/$address ] || continue
  echo vfio-pci > /sys/bus/pci/devices/$address/driver_override; echo $address > /sys/bus/pci/drivers_probe
done
echo 1 > /proc/sys/vm/unprivileged_userfaultfd 2>/dev/null
echo "lab: ready after $(cut -d' ' -f1 /proc/uptime) s"
while :; do socat TCP-LISTEN:7000,fork,reuseaddr EXEC:/bin/bash,stderr; sleep 1; done
