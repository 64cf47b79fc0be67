"""The admin interface: health, metrics, JSON, an event stream and a page, by HTTP. It is read-only.

Every response comes from snapshots in memory. QEMU is never queried, so a QEMU that hangs delays no response. The
package is imported only when it is configured.
"""
