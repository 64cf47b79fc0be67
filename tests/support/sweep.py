"""What every command of QEMU 7.2 and 11.1 can do against the guard: judged, harmless (why), or open (where).

`tests/e2e/test_sweep.py` holds real schemas against it: a command, or a telling argument, that stands nowhere fails.
"""

from __future__ import annotations

from collections.abc import Mapping


def _all(why: str, *words: str) -> dict[str, str]:
    return {command: why for text in words for command in text.split()}


#: commands that pass without a look, and why they can
HARMLESS: Mapping[str, str] = {
    **_all(
        "it changes a job that was judged when it began",
        "block-job-cancel block-job-change block-job-complete block-job-dismiss block-job-finalize block-job-pause",
        "block-job-resume block-job-set-speed job-cancel job-complete job-dismiss job-finalize job-pause job-resume",
    ),
    **_all(
        "it names block nodes that are open, and opens none",
        "block-dirty-bitmap-add block-dirty-bitmap-clear block-dirty-bitmap-disable block-dirty-bitmap-enable",
        "block-dirty-bitmap-merge block-dirty-bitmap-remove block-export-del block-latency-histogram-set",
        "block-set-write-threshold block_resize block_set_io_throttle blockdev-close-tray blockdev-del",
        "blockdev-insert-medium blockdev-open-tray blockdev-remove-medium blockdev-set-active blockdev-snapshot",
        "blockdev-snapshot-delete-internal-sync blockdev-snapshot-internal-sync eject nbd-server-add nbd-server-remove",
        "nbd-server-stop snapshot-delete x-blockdev-amend x-blockdev-change x-blockdev-set-iothread",
        "x-debug-block-dirty-bitmap-sha256 x-debug-query-block-graph",
    ),
    **_all(
        "it takes something away that is no monitor's: QEMU refuses a character device that is in use",
        "chardev-remove device_del",
    ),
    **_all("its descriptors are the client's own", "add-fd closefd getfd remove-fd"),
    **_all("it only reads", "qom-get qom-list qom-list-get ringbuf-read trace-event-get-state xen-event-list"),
    **_all("it only reads", "x-accel-stats calc-dirty-rate"),
    **_all("the VM's course, its input and its hardware", "announce-self balloon cont stop quit set-action set_link"),
    **_all("the VM's course, its input and its hardware", "system_powerdown system_reset system_wakeup inject-nmi"),
    **_all(
        "the VM's course, its input and its hardware", "rtc-reset-reinjection watchdog-set-action device-sync-config"
    ),
    **_all("the VM's course, its input and its hardware", "set-cpu-topology set-numa-node request-ebpf"),
    **_all("the VM's course, its input and its hardware", "sev-inject-launch-secret ringbuf-write chardev-send-break"),
    **_all("the VM's course, its input and its hardware", "replay-break replay-delete-break replay-seek"),
    **_all("the VM's course, its input and its hardware", "cancel-vcpu-dirty-limit set-vcpu-dirty-limit"),
    **_all("the VM's course, its input and its hardware", "trace-event-set-state display-reload inject-ghes-v2-error"),
    **_all(
        "events of emulated hardware",
        "cxl-add-dynamic-capacity cxl-inject-correctable-error cxl-inject-dram-event cxl-inject-general-media-event",
        "cxl-inject-memory-module-event cxl-inject-poison cxl-inject-uncorrectable-errors cxl-release-dynamic-capacity",
        "xen-event-inject",
    ),
    **_all(
        "COLO and Xen: of no consequence without x-colo, which rule vfio-colo refuses, or off Xen",
        "x-colo-lost-heartbeat xen-colo-do-checkpoint xen-set-global-dirty-log xen-set-replication",
    ),
    **_all("the guard answers it itself", "qmp_capabilities"),
}

#: commands that stay open, and the passage of docs/threat-model.md that says so
OPEN: Mapping[str, str] = {
    **_all(
        "Displays",
        "change-vnc-password client_migrate_info expire_password set_password",
    ),
    **_all("QEMU's default monitor", "input-send-event send-key"),
    **_all(
        "Code as QEMU's user", "dump-guest-memory dump-skeys dumpdtb memsave pmemsave screendump xen-save-devices-state"
    ),
    **_all("QEMU's command line", "x-exit-preconfig"),
}

#: how the arguments are called that name a path, an address, a character device, or a type
TELLING = frozenset(
    {
        *(
            "addr",
            "address",
            "backend",
            "backing",
            "chardev",
            "driver",
            "fdname",
            "file",
            "filename",
            "host",
            "hostname",
        ),
        *(
            "path",
            "port",
            "protocol",
            "qom-type",
            "server",
            "socket",
            "target",
            "transport",
            "type",
            "uri",
            "snapshot-file",
        ),
    }
)
#: such arguments of harmless and open commands
TELLING_OF: Mapping[tuple[str, str], str] = {
    ("qom-get", "path"): "a path in the QOM tree",
    ("qom-list", "path"): "a path in the QOM tree",
    ("cxl-add-dynamic-capacity", "path"): "a path in the QOM tree",
    ("cxl-inject-correctable-error", "path"): "a path in the QOM tree",
    ("cxl-inject-correctable-error", "type"): "the kind of an error",
    ("cxl-inject-dram-event", "path"): "a path in the QOM tree",
    ("cxl-inject-dram-event", "type"): "the kind of an event",
    ("cxl-inject-general-media-event", "path"): "a path in the QOM tree",
    ("cxl-inject-general-media-event", "type"): "the kind of an event",
    ("cxl-inject-memory-module-event", "path"): "a path in the QOM tree",
    ("cxl-inject-memory-module-event", "type"): "the kind of an event",
    ("cxl-inject-poison", "path"): "a path in the QOM tree",
    ("cxl-inject-uncorrectable-errors", "path"): "a path in the QOM tree",
    ("cxl-release-dynamic-capacity", "path"): "a path in the QOM tree",
    ("getfd", "fdname"): "a name of the client's own",
    ("closefd", "fdname"): "a name of the client's own",
    ("block-dirty-bitmap-merge", "target"): "a bitmap",
    ("block-job-change", "type"): "the kind of a job",
    ("display-reload", "type"): "the kind of a display",
    ("set-numa-node", "type"): "the kind of an option",
    ("set-numa-node", "target"): "the number of a node",
    ("xen-event-inject", "port"): "a port of Xen's event channels",
}
