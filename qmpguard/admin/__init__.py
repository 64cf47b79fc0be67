"""The admin interface: health, metrics, JSON, a stream and a page, by HTTP. It reads snapshots and changes nothing.

Nothing here asks QEMU anything: every answer comes from memory, so a QEMU that hangs delays nobody.
Imported only when it is configured.
"""
