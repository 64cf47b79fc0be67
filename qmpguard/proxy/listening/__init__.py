"""Where clients, and a QEMU that dials in, come in: sockets that listen, their files, and who may connect."""
