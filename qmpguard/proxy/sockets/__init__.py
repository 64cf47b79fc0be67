"""Sockets, descriptors and memory: bytes in, bytes out. Nothing here knows QMP."""
