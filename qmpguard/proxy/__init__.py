"""The asyncio part: sockets, sessions, the link to QEMU and the gate, around the two pure floors."""
