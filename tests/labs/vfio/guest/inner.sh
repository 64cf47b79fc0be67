#!/bin/busybox sh
# init of a guest whose network has a failover pair; it tells on its console that it runs, and its cards when they change
B=/bin/busybox
$B mount -t devtmpfs dev /dev; $B mount -t proc proc /proc; $B mount -t sysfs sys /sys
while read -r module; do $B insmod "/m/$module"; done < /m/order
for each in /sys/class/net/*; do $B ip link set "${each##*/}" up; done
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
