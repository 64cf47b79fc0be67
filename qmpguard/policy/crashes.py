"""Requests that are known to end QEMU, VFIO or not: one table, with the versions and the way in which each was seen.

What is not in the table passes. A row that depends on more than the request (`sure` is false: on the modules that are
installed beside the running QEMU) warns in profile standard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qmpguard.policy.verdict import Problem

if TYPE_CHECKING:
    from qmpguard.policy.machine import Machine
    from qmpguard.policy.policy import Policy
    from qmpguard.wire.json import Value

#: channels that are looked through; QEMU takes two at most
MAX_CHANNELS = 8
Arguments = Mapping[str, "Value"]


@dataclass(frozen=True, slots=True)
class Crash:
    """One row: a command with arguments, how QEMU ends, the first version that does not, and where it was seen."""

    commands: tuple[str, ...]
    argument: str
    matches: Callable[[Arguments], bool]
    how: str
    seen: str
    fix: str
    mended: tuple[int, ...] | None = None
    sure: bool = True


def _cpr_alone(arguments: Arguments) -> bool:
    kinds = [channel.get("channel-type") for channel in _channels(arguments)]
    return kinds == ["cpr"]


def _no_program(arguments: Arguments) -> bool:
    addresses = [channel.get("addr") for channel in _channels(arguments)]
    return any(isinstance(a, dict) and a.get("transport") == "exec" and a.get("args") == [] for a in addresses)


def _channels(arguments: Arguments) -> list[dict[str, Value]]:
    channels = arguments.get("channels")
    if not isinstance(channels, list):
        return []
    return [channel for channel in channels[:MAX_CHANNELS] if isinstance(channel, dict)]


def _any(arguments: Arguments) -> bool:
    return True


def _type_in(*types: str) -> Callable[[Arguments], bool]:
    return lambda arguments: arguments.get("typename") in types


_BOTH_WAYS = ("migrate", "migrate-incoming")
_PROPERTIES = ("qom-list-properties", "device-list-properties")
_ASK_ELSEWHERE = "ask a QEMU of the same version that runs no VM"

CRASHES = (
    Crash(_BOTH_WAYS, "one channel, of type cpr", _cpr_alone, "SIGSEGV", "11.1.3", "name a main channel too"),
    Crash(_BOTH_WAYS, "transport exec with no args", _no_program, "SIGSEGV", "11.1.3", "name a program"),
    Crash(
        ("xen-load-devices-state",),
        "off Xen",
        _any,
        "abort",
        "7.2.22 and 11.1.3, while the VM does not run",
        "on Xen, set this rule to warn",
    ),
    Crash(
        ("qom-list-properties",),
        "colo-compare, qio-net-listener, microvm-machine or x-remote-object",
        _type_in("colo-compare", "qio-net-listener", "microvm-machine", "x-remote-object"),
        "abort or SIGSEGV",
        "7.2.22, not 11.1.3",
        _ASK_ELSEWHERE,
        mended=(11, 1),
    ),
    Crash(
        _PROPERTIES,
        "a type that is in a module: virtio-gpu-gl-pci, virtio-vga-gl, qxl-vga or ccid-card-passthru",
        _type_in("virtio-gpu-gl-pci", "virtio-vga-gl", "qxl-vga", "ccid-card-passthru"),
        "abort, or exit 1",
        "7.2.22 where the module is not installed, 11.1.3 with modules of another build",
        _ASK_ELSEWHERE,
        sure=False,
    ),
    Crash(
        ("qom-list-types", "info qdm", "device_add help"),
        "loads every module",
        _any,
        "abort",
        "10.0.13 and 11.1.3 with modules of another build, as after a package upgrade under a running VM",
        _ASK_ELSEWHERE,
        sure=False,
    ),
)


def crash(command: str, arguments: Arguments) -> Crash | None:
    """Return the row that a request, or the name of an HMP line, matches; None where none is known."""
    return next((row for row in CRASHES if command in row.commands and row.matches(arguments)), None)


def qemu_crash(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse a command that is known to end the QEMU that is there, VFIO or not.

    `migrate` and `migrate-incoming` with a single channel of type `cpr`, or with `exec` and no `args`;
    `xen-load-devices-state` off Xen; `qom-list-properties` of some types in QEMU 7.2. Queries that load modules
    (`qom-list-types`, HMP's `info qdm` and `device_add help`, the properties of some types) abort a QEMU that was
    upgraded on disk while its VM runs: they are warned of, and refused in profile strict. What is not known passes.
    """
    row = machine.crash
    if row is None or (row.mended is not None and not machine.is_older_than(row.mended, unknown=True)):
        return None
    text = f"QEMU may end here ({row.how}): {row.argument}; seen on {row.seen}"
    return Problem(text, row.fix, advisory=not row.sure and not policy.strict)
