"""Requests that are known to end QEMU, with or without VFIO: one table, with the effect and the versions of each.

A request that is not in the table passes. A row whose effect also depends on the installed modules (`is_certain` is
false) only warns in profile standard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmpguard.wire.json import Value

#: channels that are read; QEMU takes two at most
MAX_CHANNELS = 8
Arguments = Mapping[str, "Value"]


@dataclass(frozen=True, slots=True)
class Crash:
    """One row: commands with an argument, the effect on QEMU, the versions it was seen on, the first fixed version."""

    commands: tuple[str, ...]
    argument: str
    matches: Callable[[Arguments], bool]
    effect: str
    seen_on: str
    fix: str
    fixed_in: tuple[int, ...] | None = None
    is_certain: bool = True


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
        fixed_in=(11, 1),
    ),
    Crash(
        _PROPERTIES,
        "a type that is in a module: virtio-gpu-gl-pci, virtio-vga-gl, qxl-vga or ccid-card-passthru",
        _type_in("virtio-gpu-gl-pci", "virtio-vga-gl", "qxl-vga", "ccid-card-passthru"),
        "abort, or exit 1",
        "7.2.22 where the module is not installed, 11.1.3 with modules of another build",
        _ASK_ELSEWHERE,
        is_certain=False,
    ),
    Crash(
        ("qom-list-types", "info qdm", "device_add help"),
        "loads every module",
        _any,
        "abort",
        "10.0.13 and 11.1.3 with modules of another build, as after a package upgrade under a running VM",
        _ASK_ELSEWHERE,
        is_certain=False,
    ),
)


def crash(command: str, arguments: Arguments) -> Crash | None:
    """Return the row for a request, or for the name of an HMP line; None where there is none."""
    return next((row for row in CRASHES if command in row.commands and row.matches(arguments)), None)
