"""The proxy: sockets, sessions, the link to QEMU and the gate. `wire` and `policy` below it do no I/O."""
