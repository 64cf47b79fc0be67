"""QMP on the wire: bytes in, messages out. No sockets, no clock, no policy."""
