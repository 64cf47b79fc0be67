"""Listening sockets, for clients and for an inbound QEMU: their files, their peers, and the rate of connections."""
