"""Every route to harm that we know: the situation, what is asked for, and the rule that refuses it.

`tests/e2e/test_tables.py` sends the same rows to a real QEMU with a real VFIO device.
"""

from __future__ import annotations

from typing import Any

import pytest

from qmpguard.policy.judgment import concerns, judge
from qmpguard.policy.mode import Mode, Profile
from qmpguard.policy.operations import CallUnlisted
from qmpguard.policy.policy import Policy
from qmpguard.policy.readers import read
from qmpguard.policy.reading.result import Harmless, Unreadable
from qmpguard.policy.rules import passes_unjudged, unverified_mode
from tests.support.scenes import (
    ANONYMOUS,
    BARE,
    BOTH,
    BOTH_ANONYMOUS,
    BOTH_COLO,
    BOTH_SNAP,
    COLO,
    CPR_EXEC,
    GLOBAL_BOTH,
    GLOBAL_LIT,
    HIDDEN,
    IGNORED,
    IGNORED_PAUSED,
    INCOMING,
    INCOMING_BOTH,
    INCOMING_COLO,
    INCOMING_LIT,
    LIT,
    LIT_SNAP,
    MULTIFD_OLD,
    OLD,
    OVER_BOTH,
    OVER_LIT,
    OVER_SNAP,
    PAUSED,
    PC,
    PLUGGED,
    REBOOT,
    SINCE_LIT,
    SINCE_SNAP,
    SNAP,
    STANDBY,
    STANDBY_LIT,
    TRANSFER,
    UNSTARTED_SNAP,
    Request,
    Scene,
    caps,
    channel,
    channels,
    hmp,
    load,
    on,
    plug,
    qmp,
    save,
)

POSTCOPY, SNAPSHOT, COLO_RULE = "vfio-postcopy", "vfio-background-snapshot", "vfio-colo"
Row = tuple[Scene, Request, str]
#: the monitor's own socket, as QAPI names it today and as it did before
OWN: dict[str, Any] = {"type": "unix", "path": "/elsewhere/qmp0.sock"}
LEGACY: dict[str, Any] = {"type": "unix", "data": {"path": "/elsewhere/qmp0.sock"}}
BY_NUMBER: dict[str, Any] = {"type": "fd", "data": {"str": "4"}}
#: QEMU's user-space driver of a host's NVMe device
NVME = {"driver": "nvme", "device": "0000:01:00.0", "namespace": 1}
#: where a monitor would wait for whoever comes, and a forward that opens none
WAY, FORWARD = "unix:way.sock", "tcp:10.0.2.8:80-tcp:127.0.0.1:1"

#: refused in both profiles
ROUTES: list[Row] = [
    # the capability, with the device there
    (PLUGGED, on(PC), POSTCOPY),
    (PLUGGED, on(SNAP), SNAPSHOT),
    (PLUGGED, on("events", PC, "postcopy-preempt"), POSTCOPY),
    (PLUGGED, caps((PC, False), (PC, True)), POSTCOPY),
    (PLUGGED, caps((PC, True), (PC, False), ("events", True), (PC, True)), POSTCOPY),
    (PLUGGED, caps((PC, True), ("no-such-capability", True)), POSTCOPY),
    (ANONYMOUS, on(PC), POSTCOPY),
    (ANONYMOUS, on(SNAP), SNAPSHOT),
    (INCOMING, on(PC), POSTCOPY),
    (INCOMING, on(PC, "postcopy-preempt"), POSTCOPY),
    (PLUGGED, qmp("migrate-set-parameters", **{"postcopy-ram": True}), POSTCOPY),
    (PLUGGED, qmp("migrate-set-parameters", **{"postcopy-ram": True, "cpr-exec-command": ["q"]}), POSTCOPY),
    (PLUGGED, qmp("migrate-set-parameters", **{"background-snapshot": True, "downtime-limit": 5}), SNAPSHOT),
    (PLUGGED, qmp("qom-set", path="/objects/migration", property="x-postcopy-ram", value=True), POSTCOPY),
    (PLUGGED, qmp("qom-set", path="migration", property="x-background-snapshot", value="on"), SNAPSHOT),
    (HIDDEN, on(PC), POSTCOPY),
    (HIDDEN, on(SNAP), SNAPSHOT),
    # the same by HMP, spelled as QEMU reads it
    (PLUGGED, hmp("migrate_set_capability postcopy-ram on"), POSTCOPY),
    (PLUGGED, hmp("migrate_set_capability background-snapshot on"), SNAPSHOT),
    (PLUGGED, hmp("  migrate_set_capability   postcopy-ram   on  "), POSTCOPY),
    (PLUGGED, hmp("\tmigrate_set_capability\tpostcopy-ram\ton"), POSTCOPY),
    (PLUGGED, hmp("\nmigrate_set_capability\npostcopy-ram\non\n"), POSTCOPY),
    (PLUGGED, hmp("migrate_set_capability\vpostcopy-ram\fon"), POSTCOPY),
    (PLUGGED, hmp('migrate_set_capability "postcopy-ram" on'), POSTCOPY),
    (PLUGGED, hmp('migrate_set_capability "postcopy-ram"on'), POSTCOPY),
    (PLUGGED, hmp("qom-set migration x-postcopy-ram on"), POSTCOPY),
    (PLUGGED, hmp("migrate_set_parameter postcopy-ram on"), POSTCOPY),
    (PLUGGED, hmp("migrate_set_parameter postcopy-ram true"), POSTCOPY),
    (PLUGGED, hmp('migrate_set_parameter "background-snapshot" on'), SNAPSHOT),
    (PLUGGED, hmp("qom-set -j migration x-postcopy-ram true"), POSTCOPY),
    (INCOMING, hmp("migrate_set_capability postcopy-ram on"), POSTCOPY),
    (INCOMING, hmp("migrate_set_parameter postcopy-ram on"), POSTCOPY),
    (HIDDEN, hmp("migrate_set_capability postcopy-ram on"), POSTCOPY),
    # the migration, when the combination came from behind
    (BOTH, qmp("migrate", uri="exec:cat >/dev/null"), POSTCOPY),
    (BOTH, qmp("migrate", uri="tcp:127.0.0.1:1"), POSTCOPY),
    (BOTH, qmp("migrate", uri="unix:/nowhere"), POSTCOPY),
    (BOTH, qmp("migrate", uri="fd:m"), POSTCOPY),
    (BOTH, qmp("migrate", uri="file:/dev/null"), POSTCOPY),
    (BOTH, qmp("migrate", uri="rdma:127.0.0.1:1"), POSTCOPY),
    (BOTH, qmp("migrate", uri="tcp:127.0.0.1:1", resume=False), POSTCOPY),
    (BOTH, qmp("migrate", uri="tcp:127.0.0.1:1", detach=True), POSTCOPY),
    (BOTH, qmp("migrate", uri="tcp:127.0.0.1:1", blk=True, inc=True), POSTCOPY),
    (BOTH, qmp("migrate", channels=channel(transport="socket", type="inet", host="127.0.0.1", port="1")), POSTCOPY),
    (BOTH, qmp("migrate", channels=channel(transport="exec")), POSTCOPY),
    (BOTH, qmp("migrate"), POSTCOPY),
    (BOTH, hmp("migrate exec:cat"), POSTCOPY),
    (BOTH, hmp("migrate -d exec:cat"), POSTCOPY),
    (BOTH, hmp("migrate -d tcp:127.0.0.1:1"), POSTCOPY),
    (BOTH, hmp('migrate -d "tcp:127.0.0.1:1"'), POSTCOPY),
    (BOTH, qmp("migrate-start-postcopy"), POSTCOPY),
    (BOTH, hmp("migrate_start_postcopy"), POSTCOPY),
    (GLOBAL_BOTH, qmp("migrate", uri="exec:cat"), POSTCOPY),
    (GLOBAL_BOTH, hmp("migrate -d exec:cat"), POSTCOPY),
    (OVER_BOTH, qmp("migrate", uri="exec:cat"), POSTCOPY),
    (OVER_BOTH, hmp("migrate -d exec:cat"), POSTCOPY),
    (OVER_BOTH, qmp("migrate-start-postcopy"), POSTCOPY),
    (BOTH_ANONYMOUS, qmp("migrate", uri="exec:cat"), POSTCOPY),
    (BOTH_SNAP, qmp("migrate", uri="exec:cat"), SNAPSHOT),
    (BOTH_SNAP, qmp("migrate", uri="file:/dev/null"), SNAPSHOT),
    (BOTH_SNAP, hmp("migrate -d exec:cat"), SNAPSHOT),
    (INCOMING_BOTH, qmp("migrate-incoming", uri="tcp:127.0.0.1:0"), POSTCOPY),
    (INCOMING_BOTH, qmp("migrate-incoming", uri="exec:cat", **{"exit-on-error": False}), POSTCOPY),
    (INCOMING_BOTH, qmp("migrate-incoming", channels=channel(transport="file", filename="/dev/null")), POSTCOPY),
    (INCOMING_BOTH, hmp("migrate_incoming tcp:127.0.0.1:0"), POSTCOPY),
    # the device, with the capability on
    (LIT, plug(), POSTCOPY),
    (LIT, plug(socket={"type": "unix", "path": "vu.sock"}), POSTCOPY),
    (LIT, plug("vfio-pci", host="65:00.0"), POSTCOPY),
    (LIT, plug("vfio-pci", sysfsdev="/sys/bus/mdev/devices/x"), POSTCOPY),
    (LIT, plug("vfio-pci", host="65:00.0", **{"enable-migration": "on"}), POSTCOPY),
    (LIT, plug("vfio-pci", host="65:00.0", **{"enable-migration": "off"}), POSTCOPY),
    (LIT, plug("vfio-pci", host="65:00.0", failover_pair_id="bogus"), POSTCOPY),
    (LIT, plug("vfio-pci", host="65:00.0", failover_pair_id=""), POSTCOPY),
    (LIT, plug("vfio-pci", host="65:00.0", failover_pair_id=None), POSTCOPY),
    (LIT, plug("vfio-pci", host="65:00.0", failover_pair_id=5), POSTCOPY),
    (LIT, plug("vfio-pci", host=65, id=7, failover_pair_id={}), POSTCOPY),
    (LIT, plug("vfio-pci-nohotplug"), POSTCOPY),
    (LIT, plug("vfio-ap"), POSTCOPY),
    (LIT, plug("vfio-ccw"), POSTCOPY),
    (LIT, plug("vfio-platform"), POSTCOPY),
    (LIT, plug("vfio-amd-xgbe"), POSTCOPY),
    (LIT, plug("vfio-calxeda-xgmac"), POSTCOPY),
    (LIT, plug("vfio-of-tomorrow"), POSTCOPY),
    (LIT, qmp("device_add", driver="vfio-pci", host="65:00.0"), POSTCOPY),
    (GLOBAL_LIT, plug("vfio-pci", host="65:00.0"), POSTCOPY),
    (LIT_SNAP, plug(), SNAPSHOT),
    (LIT_SNAP, plug("vfio-pci", host="65:00.0"), SNAPSHOT),
    (SINCE_LIT, plug(), POSTCOPY),  # it is meant for the next migration
    (SINCE_LIT, hmp("device_add vfio-pci,host=65:00.0"), POSTCOPY),
    (SINCE_SNAP, plug(), SNAPSHOT),
    (INCOMING_LIT, plug(), POSTCOPY),
    (INCOMING_LIT, plug("vfio-pci", host="65:00.0", failover_pair_id="bogus"), POSTCOPY),
    (INCOMING_LIT, hmp("device_add vfio-pci,host=65:00.0"), POSTCOPY),
    (STANDBY_LIT, plug("vfio-pci", host="65:00.0", failover_pair_id="net0"), POSTCOPY),
    (LIT, hmp("device_add vfio-pci,host=65:00.0,id=hp0"), POSTCOPY),
    (LIT, hmp("device_add driver=vfio-pci,host=65:00.0"), POSTCOPY),
    (LIT, hmp("device_add e1000e,id=hp0,driver=vfio-pci"), POSTCOPY),
    (LIT, hmp('device_add "vfio-pci,host=65:00.0"'), POSTCOPY),
    (LIT, hmp("device_add vfio-pci,x=" + "y" * 1010 + ",driver=e1000e"), POSTCOPY),
    (LIT_SNAP, hmp("device_add vfio-pci,host=65:00.0"), SNAPSHOT),
    # a host device in the block layer
    (LIT, qmp("blockdev-add", **{"node-name": "n0"}, **NVME), POSTCOPY),
    (LIT, qmp("blockdev-add", driver="raw", file=NVME), POSTCOPY),
    (LIT, qmp("blockdev-add", driver="qcow2", file={"driver": "throttle", "file": NVME}), POSTCOPY),
    (LIT, qmp("blockdev-reopen", options=[{"driver": "raw", "node-name": "r", "file": NVME}]), POSTCOPY),
    (LIT, qmp("drive-mirror", device="d", target="nvme://0000:01:00.0/1", sync="full"), POSTCOPY),
    (LIT, qmp("drive-backup", device="d", target="nvme://0000:01:00.0/1", sync="full"), POSTCOPY),
    (LIT, qmp("blockdev-change-medium", id="d", filename='json:{"driver":"nvm\\u0065"}'), POSTCOPY),
    (LIT, qmp("blockdev-snapshot-sync", device="d", **{"snapshot-file": "nvme://0000:01:00.0/1"}), POSTCOPY),
    (LIT, hmp("drive_add 0 if=none,driver=nvme,device=0000:01:00.0,namespace=1"), POSTCOPY),
    (LIT, hmp("drive_add 0 if=none,file=nvme://0000:01:00.0/1"), POSTCOPY),
    (LIT, hmp("change d nvme://0000:01:00.0/1"), POSTCOPY),
    (LIT_SNAP, qmp("blockdev-add", **{"node-name": "n0"}, **NVME), SNAPSHOT),
    (LIT_SNAP, qmp("blockdev-add", driver="virtio-blk-vfio-pci", path="/sys/bus/pci/devices/0000:00:01.0"), SNAPSHOT),
    (SINCE_LIT, qmp("blockdev-add", **NVME), POSTCOPY),
    (INCOMING_LIT, qmp("blockdev-add", **NVME), POSTCOPY),
    # a snapshot that aborts QEMU
    (UNSTARTED_SNAP, qmp("migrate", uri="exec:cat"), "snapshot-runstate"),
    (UNSTARTED_SNAP, hmp("migrate -d exec:cat"), "snapshot-runstate"),
    # another monitor
    (BARE, qmp("object-add", **{"qom-type": "monitor-qmp", "id": "m", "chardev": "c"}), "new-monitor"),
    (BARE, qmp("object-add", **{"qom-type": "monitor-hmp", "id": "m", "chardev": "c"}), "new-monitor"),
    (BARE, hmp("object_add monitor-qmp,id=m,chardev=c"), "new-monitor"),
    (BARE, hmp("object_add qom-type=monitor-hmp,id=m,chardev=c"), "new-monitor"),
    (BARE, hmp('object_add {"qom-type":"monitor-qmp","id":"m","chardev":"c"}'), "new-monitor"),
    (BARE, hmp("object_add {'id':'m','chardev':'c','qom-type':'monitor-hmp'}"), "new-monitor"),
    (BARE, qmp("add_client", protocol="compat_monitor0", fdname="f"), "new-monitor"),
    (BARE, qmp("add_client", protocol="charserial0", fdname="f"), "new-monitor"),
    (BARE, hmp("gdbserver"), "new-monitor"),
    (BARE, hmp("gdbserver tcp::1234"), "new-monitor"),
    (BARE, hmp("gdbserver mon:stdio"), "new-monitor"),
    (BARE, qmp("netdev_add", type="user", id="n", guestfwd=[{"str": f"tcp:10.0.2.9:80-mon:{WAY}"}]), "new-monitor"),
    (
        BARE,
        qmp("netdev_add", type="user", id="n", guestfwd=[{"str": FORWARD}, {"str": f"::80-mon:{WAY}"}]),
        "new-monitor",
    ),
    (BARE, qmp("netdev_add", type="user", id="n", guestfwd=[{"str": f"::80-{WAY},server=on,mux=on"}]), "new-monitor"),
    (BARE, hmp(f"netdev_add user,id=n,guestfwd=tcp:10.0.2.9:80-mon:{WAY},,server=on"), "new-monitor"),
    (BARE, hmp(f"netdev_add type=user,id=n,guestfwd=::80-mon:{WAY},,server=on,guestfwd={FORWARD}"), "new-monitor"),
    # what would blind QEMU's own check
    (PLUGGED, qmp("qom-set", path="/machine/peripheral/gpu0", property="realized", value=False), "vfio-property"),
    (PLUGGED, qmp("qom-set", path="gpu0", property="realized", value=False), "vfio-property"),
    (PLUGGED, qmp("qom-set", path="gpu0", property="failover_pair_id", value="x"), "vfio-property"),
    (PLUGGED, qmp("qom-set", path="gpu0", property="enable-migration", value="on"), "vfio-property"),
    (PLUGGED, qmp("qom-set", path="gpu0", property="x-enable-migration", value=True), "vfio-property"),
    (PLUGGED, hmp("qom-set gpu0 realized off"), "vfio-property"),
    (
        ANONYMOUS,
        qmp("qom-set", path="/machine/peripheral-anon/device[0]", property="realized", value=False),
        "vfio-property",
    ),
    # what nobody can read
    (BARE, qmp("migrate", uri="tcp:127.0.0.1:1", config={"postcopy-ram": True}), "unverified"),
    (BARE, qmp("migrate", uri="tcp:127.0.0.1:1", resume=True, config={}), "unverified"),
    (BARE, qmp("migrate-incoming", uri="tcp:127.0.0.1:0", config={}), "unverified"),
    (BARE, qmp("migrate-set-capabilities", capabilities={"capability": PC, "state": True}), "unverified"),
    (BARE, qmp("migrate-set-capabilities", capabilities=[{"capability": PC, "state": "on"}]), "unverified"),
    (BARE, qmp("migrate-set-parameters", **{"postcopy-ram": "on"}), "unverified"),
    (BARE, qmp("device_add", driver=["vfio-pci"]), "unverified"),
    (BARE, qmp("migrate-set-parameters", **{"new-parameter": 1}), "unverified"),
    (BARE, hmp("migrate_set_parameter new-parameter 1"), "unverified"),
    (BARE, qmp("device_add", driver=None), "unverified"),
    (BARE, qmp("object-add", **{"qom-type": ["monitor-qmp"]}), "unverified"),
    (BARE, qmp("object-add", id="m", props={"qom-type": "monitor-qmp", "chardev": "c"}), "unverified"),
    (BARE, hmp('object_add {"qom-type":"monitor-qmp"'), "unverified"),
    (BARE, qmp("human-monitor-command", **{"command-line": 5}), "unverified"),
    # COLO, with the device there
    *((scene, on("x-colo"), COLO_RULE) for scene in (PLUGGED, ANONYMOUS, INCOMING, HIDDEN)),
    (PLUGGED, on("return-path", "x-colo"), COLO_RULE),
    (PLUGGED, caps(("x-colo", False), ("x-colo", True)), COLO_RULE),
    (PLUGGED, hmp("migrate_set_capability x-colo on"), COLO_RULE),
    (PLUGGED, hmp('migrate_set_capability "x-colo"on'), COLO_RULE),
    (PLUGGED, hmp("migrate_set_parameter x-colo on"), COLO_RULE),
    (PLUGGED, qmp("migrate-set-parameters", **{"x-colo": True}), COLO_RULE),
    (PLUGGED, qmp("qom-set", path="migration", property="x-colo", value=True), COLO_RULE),
    (PLUGGED, hmp("qom-set migration x-colo on"), COLO_RULE),
    *((scene, plug(), COLO_RULE) for scene in (COLO, INCOMING_COLO)),
    (COLO, plug("vfio-pci", host="0000:00:00.0"), COLO_RULE),
    (COLO, hmp("device_add vfio-pci,id=hp0,host=0000:00:00.0"), COLO_RULE),
    (BOTH_COLO, qmp("migrate", uri="unix:/nowhere"), COLO_RULE),
    (BOTH_COLO, hmp("migrate -d unix:/nowhere"), COLO_RULE),
    # into whose memory others write
    *(
        (LIT_SNAP, request(driver), "snapshot-foreign-dma")
        for driver in ("vhost-user-fs-pci", "vhost-user-blk-pci", "vhost-user-gpu-pci", "vhost-vdpa-device-pci")
        for request in (plug, lambda driver: hmp(f"device_add {driver},id=hp0"))
    ),
    *(
        (scene, request, "vdpa-postcopy")
        for scene in (LIT, INCOMING_LIT, GLOBAL_LIT)
        for request in (
            plug("vhost-vdpa-device-pci"),
            plug("vhost-vdpa-device"),
            hmp("device_add vhost-vdpa-device-pci"),
        )
    ),
    # the same behind a virtio-net: the type of its back end shows at netdev_add only
    *(
        (scene, request, "vdpa-postcopy")
        for scene in (LIT, INCOMING_LIT, GLOBAL_LIT)
        for request in (
            qmp("netdev_add", type="vhost-vdpa", id="n", vhostdev="/dev/vhost-vdpa-0"),
            qmp("netdev_add", type="vhost-vdpa", id="n", vhostfd="f", queues=2),
            hmp("netdev_add vhost-vdpa,id=n,vhostdev=/dev/vhost-vdpa-0"),
            hmp("netdev_add type=tap,id=n,type=vhost-vdpa"),
        )
    ),
    *(
        (LIT_SNAP, request, "snapshot-foreign-dma")
        for request in (
            qmp("netdev_add", type="vhost-vdpa", id="n", vhostdev="/dev/vhost-vdpa-0"),
            qmp("netdev_add", type="vhost-user", id="n", chardev="c"),
            qmp("netdev_add", type="passt", id="n", **{"vhost-user": True}),
            hmp("netdev_add vhost-user,id=n,chardev=c"),
            hmp("netdev_add passt,id=n,vhost-user=on"),
        )
    ),
    # snapshots to disk
    *(
        (scene, request, "snapshot-cpr")
        for scene in (REBOOT, TRANSFER, CPR_EXEC)
        for request in (save(), load(), hmp("savevm"), hmp("savevm now"), hmp("loadvm now"))
    ),
    *(
        (MULTIFD_OLD, request, "snapshot-multifd")
        for request in (save(), load(), hmp("savevm"), hmp(' savevm "a b"'), hmp("loadvm now"))
    ),
    *((scene, r, "ignore-shared") for scene in (IGNORED, IGNORED_PAUSED) for r in (save(), hmp("savevm"))),
    # lines with a flag or an argument that a later QEMU may know
    (BOTH, hmp("migrate/-d exec:cat"), "unverified"),  # QEMU takes the slash for an argument
    (BARE, hmp("migrate -c unix:/nowhere unix:/nowhere"), "unverified"),  # cpr-transfer in 11.2
    (BARE, hmp("migrate -x unix:/nowhere"), "unverified"),
    (BARE, hmp("migrate_incoming unix:/nowhere now"), "unverified"),
    (BARE, hmp("migrate_set_capability xbzrle on now"), "unverified"),
    (BARE, hmp("device_add virtio-rng-pci now"), "unverified"),
    # what ends QEMU
    (BARE, qmp("migrate", channels=channels("cpr")), "qemu-crash"),
    (BARE, qmp("migrate", channels=channel(transport="exec", args=[])), "qemu-crash"),
    (INCOMING, qmp("migrate-incoming", channels=channels("cpr")), "qemu-crash"),
    (INCOMING, qmp("migrate-incoming", channels=channel(transport="exec", args=[])), "qemu-crash"),
    (PAUSED, qmp("xen-load-devices-state", filename="/dev/null"), "qemu-crash"),
    *(
        (OLD, qmp("qom-list-properties", typename=t), "qemu-crash")
        for t in ("colo-compare", "qio-net-listener", "microvm-machine", "x-remote-object")
    ),
]

#: refused in profile strict only
STRICT_ROUTES: list[Row] = [
    (BARE, hmp("stop"), "hmp-write"),
    (BARE, hmp("chardev-add socket,id=c,path=/x,server=on"), "hmp-write"),
    (BARE, hmp("drive_add 0 if=none"), "hmp-write"),
    (BARE, hmp("x /10i 0"), "hmp-write"),
    (BARE, qmp("migrate", uri="exec:cat"), "runs-program"),
    (BARE, qmp("migrate", channels=channel(transport="exec")), "runs-program"),
    (BARE, qmp("migrate-set-parameters", **{"cpr-exec-command": ["qemu"]}), "runs-program"),
    (BARE, hmp("migrate exec:cat"), "runs-program"),
    (BARE, hmp("migrate_set_parameter cpr-exec-command qemu"), "runs-program"),
    (INCOMING, qmp("migrate-incoming", uri="exec:cat"), "runs-program"),
    (INCOMING, hmp("migrate_incoming exec:cat"), "runs-program"),
    (BARE, qmp("migrate-set-parameters", **{"postcopy-ram": True, "cpr-exec-command": ["q"]}), "runs-program"),
    (BARE, qmp("migrate", uri="exec:cat", resume=True), "runs-program"),
    (BARE, hmp("migrate -r exec:cat"), "runs-program"),
    (BARE, qmp("migrate-recover", uri="exec:cat"), "runs-program"),
    (BARE, hmp("migrate_recover exec:cat"), "runs-program"),
    (BARE, qmp("netdev_add", type="tap", id="t", script="/tmp/x"), "runs-program"),
    (BARE, qmp("netdev_add", type="tap", id="t", script="no", downscript="/tmp/x"), "runs-program"),
    (BARE, qmp("netdev_add", type="bridge", id="t", helper="/tmp/x"), "runs-program"),
    (BARE, qmp("netdev_add", type="user", id="t", smb="/tmp"), "runs-program"),
    (BARE, qmp("netdev_add", type="user", id="t", guestfwd=[{"str": "tcp:10.0.2.9:80-cmd:sh"}]), "runs-program"),
    (BARE, hmp("netdev_add tap,id=t,script=/tmp/x"), "hmp-write"),
    (BARE, qmp("__com.redhat_command"), "unknown-command"),
    (BARE, qmp("no-such-command"), "unknown-command"),
    (BARE, qmp("qom-set", path="/machine/peripheral/net0", property="realized", value=False), "vfio-property"),
    # QEMU as a deputy against its own monitor
    (BARE, qmp("yank", instances=[{"type": "chardev", "id": "compat_monitor0"}]), "own-socket"),
    (BARE, qmp("object-add", **{"qom-type": "qtest", "id": "q", "chardev": "c"}), "own-socket"),
    (BARE, qmp("netdev_add", type="stream", id="n", server=False, addr=OWN), "own-socket"),
    (BARE, qmp("netdev_add", type="dgram", id="n", local=OWN, remote=OWN), "own-socket"),
    (BARE, qmp("netdev_add", type="user", id="n", guestfwd=[{"str": "::80-unix:/x/qmp0.sock"}]), "own-socket"),
    (BARE, qmp("chardev-add", id="c", backend={"type": "socket", "data": {"addr": LEGACY}}), "own-socket"),
    (BARE, qmp("migrate", uri="unix:/x/qmp0.sock"), "own-socket"),
    (BARE, qmp("migrate", channels=channel(transport="socket", type="unix", path="./qmp0.sock")), "own-socket"),
    (INCOMING, qmp("migrate-incoming", uri="unix:qmp0.sock"), "own-socket"),
    (BARE, qmp("nbd-server-start", addr=LEGACY), "own-socket"),
    (BARE, qmp("blockdev-add", driver="nbd", server=OWN), "own-socket"),
    (BARE, hmp("migrate -d unix:/x/qmp0.sock"), "own-socket"),
    # a descriptor that QEMU holds already, by its number
    *(
        (BARE, qmp("netdev_add", type="stream", id="n", server=False, addr={"type": "fd", "str": n}), "own-socket")
        for n in ("4", "04", "+4", " 4")
    ),
    (BARE, qmp("netdev_add", type="dgram", id="n", local={"type": "fd", "str": "4"}), "own-socket"),
    (BARE, qmp("netdev_add", type="socket", id="n", fd="4"), "own-socket"),
    (BARE, qmp("netdev_add", type="tap", id="n", fd="4"), "own-socket"),
    (BARE, qmp("netdev_add", type="tap", id="n", fds="a:4"), "own-socket"),
    (BARE, qmp("netdev_add", type="tap", id="n", ifname="t", script="/x", vhostfd="4"), "own-socket"),
    (BARE, qmp("netdev_add", type="vhost-vdpa", id="n", vhostfd="4"), "own-socket"),
    (BARE, hmp("netdev_add tap,id=n,fd=4"), "own-socket"),
    (BARE, hmp("netdev_add vhost-vdpa,id=n,vhostfd=4"), "own-socket"),
    (BARE, hmp("netdev_add socket,id=n,fd=04"), "own-socket"),
    (BARE, hmp("chardev-add socket,id=c,fd=4"), "hmp-write"),
    (BARE, qmp("chardev-add", id="c", backend={"type": "socket", "data": {"addr": BY_NUMBER}}), "own-socket"),
    (BARE, qmp("nbd-server-start", addr=BY_NUMBER), "own-socket"),
    (BARE, qmp("blockdev-add", driver="nbd", server={"type": "fd", "str": "4"}), "own-socket"),
    (BARE, qmp("blockdev-add", driver="quorum", children=[NVME, {"driver": "nbd", "server": OWN}]), "own-socket"),
    (BARE, qmp("blockdev-add", driver="quorum", children=[NVME, {"server.str": "4"}]), "own-socket"),
    (BARE, qmp("device_add", driver="vhost-vsock-pci", vhostfd="4"), "own-socket"),
    (BARE, qmp("device_add", driver="vhost-vsock-pci", vhostfd=4), "own-socket"),
    (BARE, qmp("device_add", driver="vfio-pci", fd="4"), "own-socket"),
    (BARE, qmp("device_add", driver="vfio-user-pci", socket=OWN), "own-socket"),
    (BARE, hmp("device_add vhost-vsock-pci,vhostfd=4"), "own-socket"),
    (BARE, hmp("device_add vfio-user-pci,socket.type=unix,socket.path=/x/qmp0.sock"), "own-socket"),
    (BARE, qmp("object-add", **{"qom-type": "iommufd", "id": "i", "fd": "4"}), "own-socket"),
    (BARE, hmp("object_add iommufd,id=i,fd=4"), "own-socket"),
    (BARE, hmp("object_add x-vfio-user-server,id=v,socket.type=fd,socket.str=4"), "own-socket"),
    (BARE, qmp("qom-set", path="i", property="fd", value="4"), "own-socket"),
    (BARE, hmp("qom-set i fd 4"), "own-socket"),
    (BARE, hmp('qom-set -j i fd "4"'), "own-socket"),
    (BARE, qmp("migrate", uri="fd:4"), "own-socket"),
    (BARE, qmp("migrate", channels=channel(transport="socket", type="fd", str="4")), "own-socket"),
    (BARE, qmp("migrate", uri="fd:4", resume=True), "own-socket"),
    (BARE, qmp("migrate-recover", uri="fd:4"), "own-socket"),
    (INCOMING, qmp("migrate-incoming", uri="fd:4"), "own-socket"),
    (BARE, hmp("migrate -d fd:4"), "own-socket"),
    (BARE, hmp("gdbserver none"), "hmp-write"),
    # a snapshot that begins as a postcopy migration does
    (BOTH, qmp("snapshot-load", **{"job-id": "j", "tag": "t", "vmstate": "v", "devices": ["v"]}), POSTCOPY),
    (BOTH, hmp("loadvm t"), POSTCOPY),
    (OVER_LIT, plug(), POSTCOPY),  # what is left over excuses nothing here
    (OVER_SNAP, plug(), SNAPSHOT),
    (STANDBY, on(PC), "hidden-primary"),
    (STANDBY, on(SNAP), "hidden-primary"),
    (STANDBY_LIT, qmp("migrate", uri="tcp:127.0.0.1:1"), "hidden-primary"),
]


def refused_by(scene: Scene, request: Request, policy: Policy) -> str | None:
    """The rule that refuses a request, by the pure core."""
    listed_vfio_nodes = frozenset({"query-status", "stop", "cont"})
    reading = read(request["execute"], request.get("arguments", {}), policy)
    if (
        reading is None
        and not passes_unjudged(request["execute"], listed_vfio_nodes)
        and concerns(CallUnlisted, policy)
    ):
        reading = CallUnlisted(request["execute"])
    if isinstance(reading, Unreadable):
        return "unverified" if unverified_mode(policy) is Mode.ENFORCE else None
    if reading is None or isinstance(reading, Harmless):
        return None
    refusal = judge(reading, scene.machine(), policy).refusal
    return refusal.rule if refusal else None


def name(row: object) -> str:
    return row.name if isinstance(row, Scene) else str(row)[:60]


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize(("scene", "request_", "rule"), ROUTES, ids=name)
def test_a_route_to_harm_is_refused(scene: Scene, request_: Request, rule: str, profile: Profile) -> None:
    assert refused_by(scene, request_, Policy(profile=profile)) == rule


@pytest.mark.parametrize(("scene", "request_", "rule"), STRICT_ROUTES, ids=name)
def test_a_way_around_is_refused_in_strict_and_passes_in_standard(scene: Scene, request_: Request, rule: str) -> None:
    assert refused_by(scene, request_, Policy(profile=Profile.STRICT)) == rule
    assert refused_by(scene, request_, Policy()) is None


@pytest.mark.parametrize(("scene", "request_", "rule"), ROUTES, ids=name)
def test_in_mode_warn_nothing_is_refused(scene: Scene, request_: Request, rule: str) -> None:
    assert refused_by(scene, request_, Policy(mode=Mode.WARN)) is None


def test_the_table_is_whole() -> None:
    assert len(ROUTES) >= 190
