"""How the tools that speak QMP in production write it down, from their sources; what they ask is ours.

Every tool asks for the machine's state, passes descriptors as it does when it plugs in a disk or a network card,
fails at something, stops and continues the machine, and prepares a postcopy migration, which is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from tests.support.clients.tool import Ask, Passing, Tool, crlf, go_lines, perl_objects

if TYPE_CHECKING:
    from collections.abc import Iterator

TYPE = {"path": "/machine", "property": "type"}
PERIPHERAL = {"path": "/machine/peripheral"}
TAP = {"type": "tap", "id": "net0", "fds": "net0-0"}
MEMORY = {"qom-type": "memory-backend-ram", "id": "mem0", "size": 1 << 20}

ON = {"capabilities": [{"capability": "postcopy-ram", "state": True}]}
OFF = {"capabilities": [{"capability": "postcopy-ram", "state": False}]}


@dataclass(frozen=True)
class Hand:
    """How a tool writes a request. ``end`` is behind it; ``ids`` gives the value of its last member, the id, if any.

    ``always``: with arguments even if there are none; ``turning``: the members begin with another one each time.
    """

    end: bytes = b""
    ids: Iterator[str | int] | None = None
    spaces: bool = False
    in_order: bool = False
    always: bool = False
    turning: Iterator[int] | None = None

    def __call__(self, command: str, arguments: Any = None, passing: Passing | None = None) -> Ask:
        members: list[tuple[str, Any]] = [("execute", command)]
        if arguments or self.always:
            members.append(("arguments", arguments or {}))
        if self.ids is not None:
            members.append(("id", next(self.ids)))
        if self.turning is not None:
            first = next(self.turning) % len(members)
            members = members[first:] + members[:first]
        separators = (", ", ": ") if self.spaces else (",", ":")
        text = json.dumps(dict(members), separators=separators, sort_keys=self.in_order)
        return Ask(text.encode() + self.end, passing)


def _libvirt() -> Tool:
    """src/qemu/qemu_monitor_json.c: compact, a text as id, CR LF; a descriptor travels with its request."""
    ask = Hand(end=b"\r\n", ids=(f"libvirt-{number}" for number in count(1)))

    def events(*, state: bool) -> Ask:
        return ask("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": state}]})

    requests = (
        ask("qmp_capabilities"),
        ask("query-qmp-schema"),
        ask("query-migrate-capabilities"),
        events(state=True),
        ask("qom-list", PERIPHERAL),
        ask("query-cpus-fast"),
        ask("query-hotpluggable-cpus"),
        ask("query-named-block-nodes", {"flat": True}),
        ask("query-status"),
        ask("getfd", {"fdname": "net0-0"}, Passing.WITH),
        ask("netdev_add", TAP),
        ask("add-fd", {"fdset-id": 7, "opaque": "vdpa"}, Passing.WITH),
        ask("query-fdsets"),
        ask("remove-fd", {"fdset-id": 7}),
        ask("stop"),
        ask("cont"),
        ask("human-monitor-command", {"command-line": "info version"}),
        ask("migrate-set-capabilities", ON),
        ask("migrate-set-capabilities", OFF),
        events(state=False),
        ask("query-migrate"),
    )
    return Tool("libvirt", crlf, (requests,))


def _proxmox() -> Tool:
    """PVE::QMPClient: a connection for each command, no wait for the greeting, no newline; Perl's order of members."""
    ask = Hand(ids=(f"4711:{number}" for number in count(1)), always=True, turning=count())
    every = ("xbzrle", "rdma-pin-all", "auto-converge", "postcopy-ram", "multifd", "dirty-bitmaps")
    capabilities = {"capabilities": [{"capability": name, "state": name == "postcopy-ram"} for name in every]}

    requests: tuple[tuple[Any, ...], ...] = (
        ("query-status",),
        ("query-version",),
        ("getfd", {"fdname": "migrate"}, Passing.WITH),
        ("closefd", {"fdname": "migrate"}),
        ("human-monitor-command", {"command-line": "info version"}),
        ("device_del", {"id": "nothing"}),
        ("stop",),
        ("cont",),
        ("migrate-set-capabilities", capabilities),
        ("migrate-set-capabilities", OFF),
        ("query-migrate",),
    )
    connections = tuple((ask("qmp_capabilities"), ask(*request)) for request in requests)
    return Tool("Proxmox VE", perl_objects, connections, awaits_greeting=False)


def _incus() -> Tool:
    """internal/server/instance/drivers/qmp: no newline but behind the negotiation, a number as id.

    It asks whether QEMU is still there after every error, with a request that is spelled by hand.
    """
    ids = count(1)
    first, ask, ping = Hand(end=b"\n", ids=ids), Hand(ids=ids), Hand(ids=ids, spaces=True)
    requests = (
        first("qmp_capabilities"),
        ask("query-status"),
        ask("query-cpus-fast"),
        ask("qom-get", TYPE),
        ask("getfd", {"fdname": "root"}, Passing.WITH),
        ask("closefd", {"fdname": "root"}),
        ask("add-fd", {"opaque": "rdonly:root"}, Passing.WITH),
        ask("query-fdsets"),
        ask("remove-fd", {"fdset-id": 0}),
        ask("stop"),
        ask("cont"),
        ask("ringbuf-read", {"device": "qemu_serial-chardev", "format": "utf8", "size": 16}),
        ping("query-version"),
        ask("migrate-set-capabilities", ON),
        ping("query-version"),
        ask("migrate-set-capabilities", OFF),
        ask("query-migrate"),
    )
    return Tool("Incus", go_lines, (requests,))


def _kata() -> Tool:
    """src/runtime/pkg/govmm/qemu/qmp.go: members in the alphabet's order, a newline, no id."""
    ask = Hand(end=b"\n", in_order=True)
    requests = (
        ask("qmp_capabilities"),
        ask("query-hotpluggable-cpus"),
        ask("query-cpus-fast"),
        ask("getfd", {"fdname": "net0-0"}, Passing.WITH),
        ask("netdev_add", TAP | {"vhost": True, "vhostfds": "nothing"}),
        ask("netdev_del", {"id": "net0"}),
        ask("object-add", MEMORY),
        ask("query-memory-devices"),
        ask("object-del", {"id": "mem0"}),
        ask("qom-get", TYPE),
        ask("stop"),
        ask("cont"),
        ask("query-status"),
        ask("migrate-set-capabilities", ON),
        ask("migrate-set-capabilities", OFF),
        ask("query-migrate"),
    )
    return Tool("Kata Containers", go_lines, (requests,))


def _go_qemu() -> Tool:
    """qmp/socket.go: no id, and no newline but behind the negotiation."""
    first, ask = Hand(end=b"\n"), Hand()
    requests = (
        first("qmp_capabilities"),
        ask("query-status"),
        ask("query-version"),
        ask("query-commands"),
        ask("query-block"),
        ask("qom-list", PERIPHERAL),
        ask("no-such-command"),
        ask("stop"),
        ask("query-status"),
        ask("cont"),
        ask("migrate-set-capabilities", ON),
        ask("migrate-set-capabilities", OFF),
        ask("query-migrate"),
    )
    return Tool("go-qemu (Podman)", go_lines, (requests,))


def _ganeti() -> Tool:
    """lib/hypervisor/hv_kvm/monitor.py: two newlines, no id; a descriptor travels ahead of its request, on a space.

    A connection for each operation, which begins with the list of commands.
    """
    ask = Hand(end=b"\n\n", spaces=True)
    first = (ask("qmp_capabilities"), ask("query-commands"))
    plugs = (
        ask("query-pci"),
        ask("query-block"),
        ask("getfd", {"fdname": "net0-0"}, Passing.BEFORE),
        ask("netdev_add", TAP),
        ask("add-fd", None, Passing.BEFORE),
        ask("remove-fd", {"fdset-id": 0}),
        ask("device_del", {"id": "nothing"}),
    )
    migrates = (
        ask("migrate-set-parameters", {"max-bandwidth": 32 << 20, "downtime-limit": 30}),
        ask("migrate-set-capabilities", ON),
        ask("migrate-set-capabilities", OFF),
        ask("query-migrate"),
    )
    pauses = (ask("stop"), ask("cont"))
    return Tool("Ganeti", crlf, tuple(first + operation for operation in (plugs, migrates, pauses)))


TOOLS = (_libvirt(), _proxmox(), _incus(), _kata(), _go_qemu(), _ganeti())
