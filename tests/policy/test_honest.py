"""What honest tools send, and must pass unchanged: who sends it, the situation, and the request.

`tests/e2e/test_tables.py` sends the same rows to a real QEMU with a real VFIO device, and to one without a guard.
"""

from __future__ import annotations

import pytest

from qmpguard.policy.mode import Profile
from qmpguard.policy.policy import Policy
from tests.policy.test_routes import name, refused_by
from tests.support.scenes import (
    ANONYMOUS,
    BARE,
    BITMAPS,
    BOTH,
    BOTH_COLO,
    BOTH_SNAP,
    COLO,
    CPR_EXEC,
    GLOBAL_BOTH,
    HIDDEN,
    IGNORED,
    IGNORED_INCOMING,
    IGNORED_PAUSED,
    IGNORED_PRIVATE,
    INCOMING,
    INCOMING_BOTH,
    INCOMING_LIT,
    LIT,
    LIT_SNAP,
    MULTIFD_NEW,
    MULTIFD_OLD,
    NEW,
    NORMAL,
    OVER_BOTH,
    OVER_LIT,
    OVER_SNAP,
    PAUSED,
    PC,
    PLUGGED,
    REBOOT,
    SHARED,
    SNAP,
    STANDBY,
    UNSTARTED,
    UNSTARTED_SNAP,
    Request,
    Scene,
    caps,
    channels,
    hmp,
    load,
    on,
    plug,
    qmp,
    save,
)

Row = tuple[str, Scene, Request]

AWAY = "exec:cat >/dev/null"
BY_NAME = {"type": "fd", "data": {"str": "c0"}}
RNG = {"qom-type": "rng-builtin", "id": "rng0"}
#: Proxmox names every capability that QEMU has, each with an explicit state, at every migration
PROXMOX_OFF = caps(
    ("auto-converge", True), ("xbzrle", False), ("dirty-bitmaps", True), (PC, False), (SNAP, False), ("compress", False)
)
PROXMOX = caps(("auto-converge", True), ("xbzrle", False), (PC, False), (SNAP, False), ("dirty-bitmaps", True))

HONEST: list[Row] = [
    # capabilities that are not the ones, and those that are switched off
    ("Proxmox", PLUGGED, PROXMOX),
    ("Proxmox", PLUGGED, PROXMOX_OFF),
    ("Proxmox", BOTH, PROXMOX),
    ("Proxmox", BARE, caps(("auto-converge", True), (PC, True))),
    ("libvirt", PLUGGED, {**on("events"), "id": "libvirt-5"}),
    ("libvirt", PLUGGED, {**caps(("xbzrle", False), ("auto-converge", True), ("multifd", True)), "id": "libvirt-6"}),
    ("libvirt", PLUGGED, on("pause-before-switchover", "return-path")),
    ("libvirt", BARE, on(PC)),
    ("libvirt", BARE, on(PC, "postcopy-preempt")),
    ("libvirt", INCOMING_LIT, on("events")),
    ("libvirt", BOTH, on("events")),
    ("Incus", BARE, on(SNAP)),
    ("Incus", PLUGGED, on("dirty-bitmaps", "validate-uuid")),
    ("an operator", PLUGGED, caps((PC, True), (PC, False))),
    ("an operator", BOTH, caps((PC, False))),
    ("an operator", BOTH, caps((PC, False), ("events", True))),
    ("an operator", BOTH, on(PC)),  # nothing gets worse by it
    ("an operator", BOTH_SNAP, caps((SNAP, False))),
    ("an operator", INCOMING_BOTH, caps((PC, False))),
    ("an operator", GLOBAL_BOTH, caps((PC, False))),
    ("an operator", ANONYMOUS, caps((PC, False), (SNAP, False))),
    ("an operator", PLUGGED, on("no-such-capability")),
    ("an operator", PLUGGED, on("POSTCOPY-RAM")),  # QEMU knows no such capability
    ("an operator", STANDBY, on(PC)),
    # migrations
    ("libvirt", PLUGGED, {**qmp("migrate", uri=AWAY), "id": "libvirt-7"}),
    ("libvirt", BARE, {**qmp("migrate", detach=True, resume=False, uri=AWAY), "id": "libvirt-8"}),
    ("libvirt", LIT, qmp("migrate", uri="unix:/nowhere/at/all")),
    ("libvirt", LIT_SNAP, qmp("migrate", uri=AWAY)),
    ("libvirt", UNSTARTED, qmp("migrate", uri=AWAY)),
    ("libvirt", BOTH, qmp("migrate", uri="unix:/nowhere/at/all", resume=True)),
    ("libvirt", PLUGGED, qmp("migrate_cancel")),
    ("libvirt", BOTH, qmp("migrate_cancel")),
    ("libvirt", BOTH, qmp("migrate-continue", state="pre-switchover")),
    ("libvirt", BOTH, qmp("migrate-recover", uri="unix:/nowhere/at/all")),
    ("libvirt", BITMAPS, qmp("migrate-start-postcopy")),
    ("libvirt", LIT, qmp("migrate-start-postcopy")),
    ("libvirt", BOTH_SNAP, qmp("migrate-start-postcopy")),  # QEMU refuses it in its own words
    ("Ganeti", BOTH_SNAP, hmp("migrate_start_postcopy")),
    ("Kata", INCOMING, qmp("migrate-incoming", uri="exec:sleep 1")),
    ("Kata", INCOMING_LIT, qmp("migrate-incoming", uri="unix:in.sock")),
    ("an operator", PLUGGED, qmp("migrate-incoming", uri="tcp:127.0.0.1:0")),
    ("Proxmox", PLUGGED, qmp("migrate-set-parameters", **{"downtime-limit": 100, "max-bandwidth": 1 << 30})),
    ("libvirt", PLUGGED, qmp("migrate-set-parameters", **{"multifd-channels": 4, "tls-creds": "", "tls-hostname": ""})),
    ("libvirt", BOTH, qmp("migrate-set-parameters", **{"max-postcopy-bandwidth": 0, "cpu-throttle-initial": 20})),
    ("libvirt", PLUGGED, qmp("migrate-set-parameters", mode="cpr-reboot")),
    ("libvirt", BARE, qmp("migrate-set-parameters", mode="cpr-transfer")),
    ("libvirt", BARE, qmp("migrate-set-parameters", **{"cpr-exec-command": []})),
    ("libvirt", OVER_BOTH, qmp("migrate_cancel")),
    ("libvirt", OVER_BOTH, caps((PC, False))),
    ("libvirt", HIDDEN, qmp("migrate", uri=AWAY)),
    ("libvirt", HIDDEN, on("events")),
    ("an operator", HIDDEN, qmp("device_del", id="gpu0")),
    ("libvirt", BOTH, qmp("migrate-pause")),
    ("Incus", BARE, qmp("snapshot-save", **{"job-id": "j", "tag": "t", "vmstate": "v", "devices": ["v"]})),
    ("Incus", BOTH, qmp("snapshot-save", **{"job-id": "j", "tag": "t", "vmstate": "v", "devices": ["v"]})),
    # devices
    ("libvirt", PLUGGED, plug(socket={"type": "unix", "path": "$VFIO"})),
    ("libvirt", BARE, plug(socket={"type": "unix", "path": "$VFIO"})),
    ("libvirt", UNSTARTED_SNAP, plug("virtio-rng-pci")),
    ("libvirt", LIT, plug("virtio-rng-pci")),
    ("libvirt", LIT, plug("e1000")),
    ("libvirt", LIT_SNAP, plug("virtio-balloon-pci")),
    ("libvirt", PLUGGED, qmp("device_del", id="gpu0")),
    ("libvirt", BOTH, qmp("device_del", id="gpu0")),
    ("libvirt", OVER_LIT, plug(socket={"type": "unix", "path": "$VFIO"})),  # the way back after a postcopy migration
    ("libvirt", OVER_SNAP, plug(socket={"type": "unix", "path": "$VFIO"})),
    ("libvirt", LIT, qmp("netdev_add", type="user", id="n0")),
    ("Kata", PLUGGED, qmp("netdev_add", type="hubport", id="n0", hubid=1)),
    ("Kata", BARE, plug("virtio-rng-pci", **{"disable-modern": "false", "romfile": ""})),
    ("Kata", BARE, plug("no-such-driver")),
    ("Incus", PLUGGED, qmp("object-add", **RNG)),
    ("Incus", PLUGGED, qmp("object-add", **{"qom-type": "memory-backend-ram", "id": "m", "size": 4096})),
    ("Incus", PLUGGED, qmp("object-add", **{"qom-type": "iothread", "id": "io"})),
    ("libvirt", PLUGGED, qmp("object-add", **{"qom-type": "secret", "id": "s", "data": "letmein"})),
    ("libvirt", PLUGGED, qmp("object-del", id="nobody")),
    ("libvirt", BOTH, qmp("qom-get", path="/machine/peripheral/gpu0", property="type")),
    ("libvirt", PLUGGED, qmp("qom-set", path="/machine", property="memory-merge", value=True)),
    ("Proxmox", BOTH, qmp("qom-set", path="/machine/peripheral/b", property="guest-stats-polling-interval", value=2)),
    ("Ganeti", PLUGGED, qmp("add_client", protocol="vnc", fdname="nobody")),
    ("Ganeti", BARE, qmp("query-commands")),
    ("Ganeti", BOTH, qmp("query-status")),
    ("go-qemu", BOTH, qmp("query-migrate")),
    ("go-qemu", BOTH, qmp("system_powerdown")),
    ("qmp-shell", PLUGGED, qmp("query-migrate-capabilities")),
    ("qmp-shell", BOTH, qmp("nonsense")),
    ("libvirt", LIT, qmp("blockdev-add", driver="file", filename="/dev/null", **{"node-name": "nvme"})),
    ("libvirt", LIT, qmp("blockdev-add", driver="null-co", **{"node-name": "n"})),
    ("libvirt", LIT_SNAP, qmp("blockdev-add", driver="null-co", **{"node-name": "n"})),
    ("libvirt", BARE, qmp("blockdev-add", driver="nvme", device="0000:01:00.0", namespace=1)),
    ("libvirt", LIT, qmp("transaction", actions=[])),
    ("Proxmox", LIT, hmp("drive_add 0 if=none,id=nvme,file=/dev/null,format=raw")),
    # lines of HMP
    ("Proxmox", BOTH, hmp("info status")),
    ("Proxmox", PLUGGED, hmp("info migrate")),
    ("Proxmox", BARE, hmp("drive_add 0 if=none,id=x,file=/nowhere")),
    ("Ganeti", PLUGGED, hmp("migrate_set_capability xbzrle on")),
    ("Ganeti", BOTH, hmp("migrate_set_capability postcopy-ram off")),
    ("Ganeti", PLUGGED, hmp("migrate_set_parameter downtime-limit 30")),
    ("Ganeti", BARE, hmp("migrate_set_capability postcopy-ram on")),
    ("Ganeti", PLUGGED, hmp("migrate -d exec:true")),
    ("Ganeti", BOTH, hmp("migrate_cancel")),
    ("Ganeti", BOTH, hmp("migrate_pause")),
    ("Ganeti", BOTH, hmp("migrate_continue pre-switchover")),
    ("Ganeti", BOTH, hmp("migrate_recover unix:/nowhere/at/all")),
    ("Ganeti", BOTH, hmp("migrate -r unix:/nowhere/at/all")),
    ("Ganeti", BARE, hmp("migrate_set_parameter mode cpr-reboot")),
    ("qmp-shell", PLUGGED, hmp("migrate_set_capability/postcopy-ram on")),
    ("qmp-shell", PLUGGED, hmp('migrate_set_capability "postcopy\\-ram" on')),  # no such escape
    ("qmp-shell", LIT, hmp("device_add virtio-rng-pci,id=r")),
    ("qmp-shell", BOTH, hmp("device_del gpu0")),
    ("qmp-shell", BARE, hmp("object_add rng-builtin,id=r")),
    ("qmp-shell", BARE, hmp('object_add {"qom-type": "rng-builtin", "id": "r"}')),
    ("qmp-shell", PLUGGED, hmp("qom-set /machine memory-merge on")),
    ("qmp-shell", BOTH, hmp("qom-list /machine/peripheral")),
    ("qmp-shell", PLUGGED, hmp("gdbserver none")),
    ("qmp-shell", BOTH, hmp("savevm now")),
    ("qmp-shell", PLUGGED, hmp("migrate")),
    ("qmp-shell", PLUGGED, hmp("migrate_set_capability postcopy-ram maybe")),
    ("qmp-shell", PLUGGED, hmp("migrate_set_capab postcopy-ram on")),  # QEMU knows no abbreviations
    ("qmp-shell", BOTH, hmp("# a comment is an unknown command")),
    ("qmp-shell", BARE, hmp("")),
    # snapshots to disk, in every run state and beside capabilities that have no bearing
    *(
        ("Incus", scene, request)
        for scene in (
            BARE,
            PAUSED,
            UNSTARTED,
            INCOMING,
            LIT,
            LIT_SNAP,
            COLO,
            SHARED,
            IGNORED_PRIVATE,
            NORMAL,
            MULTIFD_NEW,
        )
        for request in (save(), load())
    ),
    ("Incus", PLUGGED, save()),
    ("Incus", BOTH_COLO, load()),
    ("Incus", IGNORED, load()),
    ("Incus", BARE, qmp("snapshot-delete", **{"job-id": "j", "tag": "t", "devices": ["v"]})),
    ("qmp-shell", BARE, hmp("savevm")),
    ("qmp-shell", PAUSED, hmp("loadvm now")),
    ("qmp-shell", BARE, hmp("loadvm")),
    ("qmp-shell", BARE, hmp("delvm now")),
    # templates, whose memory stays where it is
    ("Kata", SHARED, on("x-ignore-shared")),
    ("Kata", IGNORED_PAUSED, qmp("migrate", uri="exec:cat >/dev/null")),
    ("Kata", IGNORED_PAUSED, qmp("migrate", uri="unix:/nowhere/at/all")),
    ("Kata", IGNORED_PAUSED, hmp("migrate -d exec:true")),
    ("Kata", IGNORED_INCOMING, qmp("migrate-incoming", uri="exec:sleep 1")),
    ("Kata", IGNORED, qmp("migrate", uri="tcp:127.0.0.1:1")),
    # Proxmox' hibernation and its snapshots, whose commands another QEMU does not have
    ("Proxmox", BARE, qmp("savevm-start", statefile="/nowhere")),
    ("Proxmox", PAUSED, qmp("savevm-end")),
    ("Proxmox", BARE, qmp("query-savevm")),
    ("Proxmox", BARE, hmp("savevm-start /nowhere")),
    # CPR by people who mean it
    ("an operator", NEW, qmp("migrate-set-parameters", mode="cpr-transfer")),
    ("an operator", CPR_EXEC, qmp("migrate-set-parameters", mode="normal")),
    ("an operator", NEW, qmp("migrate-set-parameters", **{"mode": "cpr-exec", "cpr-exec-command": ["q"]})),
    ("an operator", REBOOT, qmp("migrate", uri="unix:/nowhere/at/all")),
    ("an operator", REBOOT, hmp("migrate -d unix:/nowhere/at/all")),
    ("an operator", NEW, qmp("migrate", channels=channels("main", "cpr"))),
    ("an operator", REBOOT, qmp("migrate_cancel")),
    # what is like a request that ends QEMU, and does not
    ("libvirt", BARE, qmp("qom-list-properties", typename="e1000")),
    ("libvirt", NEW, qmp("qom-list-properties", typename="qio-net-listener")),
    ("libvirt", BARE, qmp("device-list-properties", typename="e1000")),
    ("libvirt", BARE, qmp("qom-list-properties", typename=[])),
    ("libvirt", NEW, qmp("migrate", channels=[])),
    ("libvirt", BARE, qmp("xen-save-devices-state", filename="/nowhere/at/all")),
    # devices of other kinds
    ("libvirt", BARE, plug("vhost-user-fs-pci")),
    ("libvirt", LIT, plug("vhost-user-fs-pci")),
    ("libvirt", LIT_SNAP, plug("virtio-net-pci")),
    ("libvirt", COLO, plug("vhost-vdpa-device-pci")),
    ("Incus", BARE, qmp("netdev_add", type="vhost-vdpa", id="n0", vhostfd="nothing")),
    ("Incus", LIT, qmp("netdev_add", type="tap", id="n0", fd="nothing", vhost=True)),
    ("libvirt", LIT, qmp("netdev_add", type="vhost-user", id="n0", chardev="nothing")),
    ("libvirt", LIT, qmp("netdev_del", id="nobody")),
    ("qmp-shell", LIT, hmp("netdev_del nobody")),
    ("libvirt", BARE, on("return-path", "x-colo")),
    ("an operator", BOTH_COLO, caps(("x-colo", False))),
    ("an operator", MULTIFD_OLD, caps(("multifd", False))),
]


#: what must pass in profile strict too, where a line of HMP or a program is refused
STRICT_HONEST: list[Row] = [
    ("libvirt", BOTH, qmp("migrate_cancel")),
    ("libvirt", BOTH, qmp("migrate-pause")),
    ("libvirt", BOTH, qmp("migrate-continue", state="pre-switchover")),
    ("libvirt", BOTH, qmp("migrate-recover", uri="unix:/nowhere/at/all")),
    ("libvirt", BOTH, qmp("migrate", uri="unix:/nowhere/at/all", resume=True)),
    ("libvirt", BOTH, caps((PC, False))),
    ("libvirt", PLUGGED, on("events")),
    ("libvirt", PLUGGED, qmp("migrate", uri="unix:/nowhere/at/all")),
    ("libvirt", LIT, plug("virtio-rng-pci")),
    ("libvirt", PLUGGED, qmp("query-status")),
    ("libvirt", PLUGGED, qmp("netdev_add", type="hubport", id="n0", hubid=1)),
    ("libvirt", BARE, qmp("yank", instances=[])),
    ("libvirt", BARE, qmp("chardev-add", id="c", backend={"type": "null", "data": {}})),
    ("libvirt", BARE, qmp("object-del", id="nobody")),
    ("libvirt", BARE, qmp("object-add", **RNG)),
    ("libvirt", LIT, qmp("blockdev-add", driver="null-co", **{"node-name": "n"})),
    ("libvirt", BARE, qmp("qom-set", path="/machine", property="memory-merge", value=True)),
    ("libvirt", BARE, qmp("netdev_add", type="tap", id="n0", fds="n0-0:n0-1", vhostfds="n0-2:n0-3", vhost=True)),
    ("libvirt", BARE, qmp("netdev_add", type="dgram", id="n0", local={"type": "fd", "str": "n0"})),
    ("libvirt", BARE, qmp("chardev-add", id="c", backend={"type": "socket", "data": {"addr": BY_NAME}})),
    ("libvirt", BARE, qmp("migrate", uri="fd:migrate")),
    ("libvirt", BARE, qmp("device_add", driver="vhost-vsock-pci", vhostfd="v0", **{"guest-cid": 4})),
    ("Ganeti", BOTH, hmp("migrate_cancel")),
    ("Ganeti", BOTH, hmp("migrate_pause")),
    ("Ganeti", BOTH, hmp("migrate_continue pre-switchover")),
    ("Ganeti", BOTH, hmp("migrate_set_capability postcopy-ram off")),
    ("Ganeti", BARE, hmp("migrate_set_capability postcopy-ram on")),
    ("Ganeti", PLUGGED, hmp("migrate -d unix:/nowhere/at/all")),
    ("Proxmox", BOTH, hmp("info status")),
    ("qmp-shell", LIT, hmp("device_add virtio-rng-pci,id=r")),
]


@pytest.mark.parametrize(("tool", "scene", "request_"), STRICT_HONEST, ids=name)
def test_an_honest_request_passes_in_strict_too(tool: str, scene: Scene, request_: Request) -> None:
    assert refused_by(scene, request_, Policy(profile=Profile.STRICT)) is None


@pytest.mark.parametrize(("tool", "scene", "request_"), HONEST, ids=name)
def test_an_honest_request_passes(tool: str, scene: Scene, request_: Request) -> None:
    assert refused_by(scene, request_, Policy()) is None


def test_the_table_is_whole() -> None:
    assert len(HONEST) >= 150
