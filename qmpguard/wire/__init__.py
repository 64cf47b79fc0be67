"""The wire layer: QMP messages from bytes, and bytes from messages. No sockets, no clock, no policy."""
