#!/bin/busybox sh
# init of the lab's first steps: the Debian over 9p, with a RAM disk over it that takes all writes
B=/bin/busybox
$B mount -t devtmpfs dev /dev; $B mount -t proc proc /proc; $B mount -t sysfs sys /sys
while read -r module; do $B insmod "/m/$module"; done < /m/order
$B mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 root /ro
$B mount -t tmpfs tmpfs /rw; $B mkdir /rw/u /rw/w
$B mount -t overlay -o lowerdir=/ro,upperdir=/rw/u,workdir=/rw/w overlay /root
for d in dev proc sys; do $B mount --move /$d /root/$d; done
exec $B switch_root /root /bin/bash /guest/lab.sh
