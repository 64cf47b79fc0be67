"""What is said to virsh in `make libvirt-lab`, directly and through the guard: a domain's life, in order.

A line is for host one unless it begins with `two:`. One that begins with `~` has times, sizes or counts in its answer:
there any number is as good as another. One that begins with `wait:` is said until
there is no job any more, or no domain.
"""

from __future__ import annotations

#: the real QEMU, and the one behind the guard
QEMU = "/usr/bin/qemu-system-x86_64"
LAUNCHER = "/usr/local/libexec/qmpguard/qemu-system-x86_64"

DOMAIN = """\
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>64</memory>
  <vcpu current='1'>2</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <emulator>{emulator}</emulator>
    {devices}
    <serial type='pty'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
  {more}
</domain>
"""
DISKS = """\
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='/shared/web.qcow2'><seclabel model='dac' relabel='no'/></source>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
    <interface type='user'><mac address='52:54:00:00:00:01'/><model type='e1000e'/></interface>
"""
FILES = {
    "/root/web.xml": DOMAIN.format(
        name="web", uuid="00000000-1111-2222-3333-444444444444", emulator="{emulator}", devices=DISKS, more=""
    ),
    "/root/tablet.xml": "<input type='tablet' bus='usb'/>",
    "/root/net.xml": "<interface type='user'><mac address='52:54:00:00:00:02'/><model type='usb-net'/></interface>",
    "/root/backup.xml": "<domainbackup><disks><disk name='vda' type='file'><target file='/shared/backup.qcow2'/>"
    "<driver type='qcow2'/></disk></disks></domainbackup>",
    "/root/checkpoint.xml": "<domaincheckpoint><name>first</name></domaincheckpoint>",
}
#: disks that both hosts see
DISKS_MADE = {"web.qcow2": "64M", "data.qcow2": "32M"}

#: how virsh on host one reaches the libvirtd of host two
TWO = "'qemu+unix:///system?socket=/mnt/libvirt-sock'"
MIGRATE = f"migrate web {TWO} --live --unsafe --migrateuri tcp://127.0.0.1:49300"
BACK = (
    "two:migrate web 'qemu+unix:///system?socket=/mnt/libvirt-sock' --live --unsafe --migrateuri tcp://127.0.0.1:49301"
)

WORDS = f"""\
version
define /root/web.xml
list --all
start web --paused
domstate web --reason
resume web
domid web
domuuid web
list
~dominfo web
dumpxml web
dumpxml web --inactive
domblklist web --details
domblkinfo web vda
~domblkstat web vda
domblkerror web
domiflist web
domif-getlink web 52:54:00:00:00:01
domif-setlink web 52:54:00:00:00:01 down
domif-setlink web 52:54:00:00:00:01 up
~dommemstat web
~domstats web
~cpu-stats web
~vcpuinfo web
vcpucount web
~iothreadinfo web
~domcontrol web
domhostname web
domtime web
domfsinfo web
guestinfo web
domfsfreeze web
qemu-agent-command web '{{"execute":"guest-ping"}}'
domdisplay web
vncdisplay web
ttyconsole web
{MIGRATE} --persistent
list --all
two:domstate web --reason
two:~dominfo web
two:suspend web
{BACK}
two:list --all
domstate web --reason
resume web
{MIGRATE} --comp-methods xbzrle --auto-converge
{BACK} --parallel --parallel-connections 2
{MIGRATE} --timeout 60 --timeout-suspend --bandwidth 50 --abort-on-error
{BACK}
{MIGRATE} --postcopy --postcopy-after-precopy
two:domstate web --reason
two:destroy web
start web
suspend web
domstate web --reason
resume web
snapshot-create-as web one
snapshot-list web --name
snapshot-current web --name
snapshot-revert web one
domstate web --reason
snapshot-delete web one
snapshot-create-as web two --disk-only --no-metadata --diskspec vda,file=/shared/web.two
domblklist web
~blockcommit web vda --active --pivot --wait --verbose
blockjob web vda --info
~blockcopy web vda /shared/copy.qcow2 --wait --verbose --pivot --transient-job
~blockcopy web vda /shared/web.qcow2 --wait --verbose --pivot --transient-job --reuse-external
~blockpull web vda --wait --verbose
setvcpus web 2 --live
vcpucount web --live --current
setmem web 49152 --live
dommemstat web --period 1 --live
iothreadadd web 3
iothreaddel web 3
attach-device web /root/tablet.xml
detach-device web /root/tablet.xml
attach-device web /root/net.xml
domiflist web
detach-device web /root/net.xml
attach-disk web /shared/data.qcow2 sdb --targetbus usb --subdriver qcow2
domblklist web
blkdeviotune web sdb --total-iops-sec 100
blkdeviotune web sdb
blockresize web sdb 48M
domblkthreshold web sdb 1M
detach-disk web sdb
attach-disk web /shared/no-such sdb --targetbus usb
change-media web sda /shared/cd.iso --insert --live
change-media web sda --eject --live
qemu-monitor-command web --hmp 'info status'
qemu-monitor-command web --hmp 'info block'
~qemu-monitor-command web '{{"execute":"query-status"}}'
~qemu-monitor-command web '{{"execute":"query-migrate-capabilities"}}'
~qemu-monitor-command web '{{"execute":"no-such-command"}}'
~qemu-monitor-command web '{{"execute":"qom-list","arguments":{{"path":"/no/such"}}}}'
qemu-monitor-command web '{{'
send-key web KEY_A
inject-nmi web
checkpoint-create web /root/checkpoint.xml
checkpoint-list web --name
checkpoint-delete web first
backup-begin web /root/backup.xml
wait:domjobinfo web
~domjobinfo web --completed
domjobabort web
migrate-setmaxdowntime web 500
migrate-getmaxdowntime web
migrate-setspeed web 100
migrate-getspeed web
migrate-compcache web
migrate-postcopy web
~domdirtyrate-calc web 1
dump web /shared/memory.elf --memory-only --format elf
dump web /shared/crash.dump --live
reset web
reboot web --mode acpi
save web /shared/saved
domstate web --reason
save-image-dumpxml /shared/saved
restore /shared/saved
domstate web --reason
managedsave web --verbose
dominfo web
managedsave-dumpxml web
start web
managedsave-remove web
two:dominfo no-such
desc web --live --title guarded
metadata web --uri http://example.org/lab --key lab --set '<note/>' --live
metadata web --uri http://example.org/lab --live
autostart web --disable
domrename web other
set-lifecycle-action web poweroff destroy --live
shutdown web --mode acpi
two:destroy web --graceful
destroy web --graceful
domstate web --reason
two:undefine web
undefine web --snapshots-metadata --checkpoints-metadata
create /root/web.xml --paused
destroy web
domstate web
list --all
"""
