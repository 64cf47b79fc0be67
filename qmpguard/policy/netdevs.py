"""A network back end, from the arguments of `netdev_add`: the programs and monitors that it would start, and its DMA.

QEMU shows no network back end (`netdev`) over QMP: no query and no QOM object tells its type. A virtio-net device is of
one QOM type with any back end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.policy.device import Device

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from qmpguard.wire.json import Value

#: the arguments of `netdev_add` that name a program (QEMU qapi/net.json); "no" means no script
_PROGRAMS = ("script", "downscript", "helper", "smb", "path")
#: entries of `guestfwd` that are read: QEMU's guests have a handful
MAX_FORWARDS = 1024


#: the kinds of netdev whose hardware or process accesses guest RAM by itself (net/vhost-vdpa.c, net/vhost-user.c)
VHOST_VDPA, VHOST_USER = "vhost-vdpa", "vhost-user"
NETDEVS = frozenset({VHOST_VDPA, VHOST_USER})
#: the values of a boolean option that is on, in QMP and in HMP
_ON = (True, "on", "yes", "true", "y")


def shared_memory_netdev(arguments: Mapping[str, Value]) -> Device | None:
    """Return the new back end as a device if it accesses guest RAM by itself; None for any other.

    Its driver is the netdev type; a `passt` with `vhost-user` on counts as ``vhost-user`` (QEMU 10.1).
    """
    kind, identity = arguments.get("type"), arguments.get("id")
    if kind == "passt" and arguments.get("vhost-user") in _ON:
        kind = VHOST_USER
    if not isinstance(kind, str) or kind not in NETDEVS:
        return None
    return netdev(kind, identity if isinstance(identity, str) else "")


def netdev(kind: str, identity: str) -> Device:
    """Return a back end as a device, with its type as the driver."""
    return Device(f"netdev {identity}", kind, identity)


def used_by(back_end: Device, users: Iterable[tuple[str, str]]) -> Device:
    """Return a back end with the devices that use it in its name; ``users`` are (netdev id, device) pairs."""
    names = [device for identity, device in users if identity == back_end.id]
    whose = f" of {' and '.join(names)}" if names else ""
    return Device(f"netdev {back_end.id}{whose}", back_end.driver)


def opens_monitor(arguments: Mapping[str, Value]) -> bool:
    """Say whether QEMU would open a monitor: a `guestfwd` to a character device with a monitor.

    QEMU net/slirp.c, slirp_guestfwd: the first dash after the port is followed by ``cmd:`` and a program, or by a
    character device. The device has a monitor if it begins with ``mon:``, or has the option ``mux``
    (chardev/char.c: qemu_chr_new_noreplay).
    """
    return any("-mon:" in text or ",mux" in text for text in _forwards(arguments))


def program_of(arguments: Mapping[str, Value]) -> str | None:
    """Return the argument that names a program for QEMU to run; None where none does."""
    for name in _PROGRAMS:
        if arguments.get(name) not in (None, "", "no"):
            return f"'{name}'"
    return "'guestfwd' to a command" if any("-cmd:" in text for text in _forwards(arguments)) else None


def _forwards(arguments: Mapping[str, Value]) -> Iterator[str]:
    """Yield the texts of `guestfwd`: a list of objects with one member `str` in QMP, one text or several in HMP."""
    forwards = arguments.get("guestfwd")
    entries = forwards[:MAX_FORWARDS] if isinstance(forwards, list) else [forwards]
    for entry in entries:
        text = entry.get("str") if isinstance(entry, dict) else entry
        if isinstance(text, str):
            yield text
