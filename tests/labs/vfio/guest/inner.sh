#!/bin/busybox sh
# init of a guest whose network has a failover pair; on its console it tells that it runs, its cards when they change, and
# over and over the sum of a file in its memory
B=/bin/busybox
$B mount -t devtmpfs dev /dev; $B mount -t proc proc /proc; $B mount -t sysfs sys /sys
while read -r module; do $B insmod "/m/$module"; done < /m/order
for each in /sys/class/net/*; do $B ip link set "${each##*/}" up; done
$B mkdir /kept; $B mount -t tmpfs kept /kept; $B dd if=/dev/urandom of=/kept/file bs=64k count=256 2>/dev/null
while :; do echo "guest: memory $($B md5sum </kept/file)"; $B sleep 2; done &
echo "guest: ready"
said= count=0
while :; do
  count=$((count + 1)); echo "guest: second $count"
  now=
  for each in /sys/class/net/*; do
    [ "${each##*/}" = lo ] || now="$now ${each##*/}=$($B basename "$($B readlink -f "$each/device/driver")")"
  done
  [ "$now" = "$said" ] || echo "guest: cards$now"
  said=$now
  $B sleep 1
done
