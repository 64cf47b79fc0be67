"""The way to one QEMU: connections one after the other, the link, the order of requests, the guard's own questions."""
