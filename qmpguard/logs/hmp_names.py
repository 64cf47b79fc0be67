"""The names of HMP's commands, in QEMU 7.2 and 11.1 and of other targets (hmp-commands.hx).

A line whose first word is none of them may be anything, such as a password that was typed at the wrong place.
"""

from __future__ import annotations

HMP_NAMES = frozenset(
    {
        *("?", "announce_self", "balloon", "block_job_cancel", "block_job_complete", "block_job_pause"),
        *("block_job_resume", "block_job_set_speed", "block_resize", "block_set_io_throttle", "block_stream"),
        *("boot_set", "c", "calc_dirty_rate", "cancel_vcpu_dirty_limit", "change", "chardev-add", "chardev-change"),
        *("chardev-remove", "chardev-send-break", "clear", "client_migrate_info", "closefd", "commit", "cont"),
        *("cpu", "delvm", "device_add", "device_del", "drive_add", "drive_backup", "drive_del", "drive_mirror"),
        *("dump-guest-memory", "dump-skeys", "dumpdtb", "eject", "exit_preconfig", "expire_password", "gdbserver"),
        *("getfd", "gpa2hpa", "gpa2hva", "gva2gpa", "help", "hostfwd_add", "hostfwd_remove", "i", "info", "loadvm"),
        *("log", "logfile", "mce", "memsave", "migrate", "migrate_cancel", "migrate_continue", "migrate_incoming"),
        *("migrate_pause", "migrate_recover", "migrate_set_capability", "migrate_set_parameter"),
        *("migrate_start_postcopy", "migration_mode", "mouse_button", "mouse_move", "mouse_set", "nbd_server_add"),
        *("nbd_server_remove", "nbd_server_start", "nbd_server_stop", "netdev_add", "netdev_del", "nmi", "o"),
        *("object_add", "object_del", "one-insn-per-tb", "p", "pcie_aer_inject_error", "pmemsave", "print", "q"),
        *("qemu-io", "qom-get", "qom-list", "qom-set", "quit", "replay_break", "replay_delete_break"),
        *("replay_seek", "ringbuf_read", "ringbuf_write", "s", "savevm", "screendump", "sendkey", "set_link"),
        *("set_password", "set_vcpu_dirty_limit", "singlestep", "snapshot_blkdev", "snapshot_blkdev_internal"),
        *("snapshot_delete_blkdev_internal", "stop", "stopcapture", "sum", "sync-profile", "system_powerdown"),
        *("system_reset", "system_wakeup", "trace-event", "watchdog_action", "wavcapture", "x"),
        *("x_colo_lost_heartbeat", "xen-event-inject", "xen-event-list", "xp"),
    }
)
