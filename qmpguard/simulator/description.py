"""The description of a simulated QEMU: a short TOML file, or a recording."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from qmpguard.errors import UsageError
from qmpguard.policy.facts import numbers
from qmpguard.recording.lines import EventSeen, Exchange, LinkUp
from qmpguard.recording.reader import read_lines
from qmpguard.simulator.versions import versions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

from qmpguard.recording.lines import Members

#: seconds of a fault or a migration at most
MAX_SECONDS = 3600.0


class FaultKind(Enum):
    """What a simulated QEMU does wrong at a command."""

    SLOW = "slow"
    SILENT = "silent"
    HALF = "half"
    DIES = "dies"


@dataclass(frozen=True, slots=True)
class QemuFault:
    """A fault at a command, from its ``count``-th time on. ``seconds``: how slow the reply is."""

    command: str
    kind: FaultKind
    seconds: float = 1.0
    count: int = 1


@dataclass(frozen=True, slots=True)
class Description:
    """A simulated QEMU. ``version`` is as in "11.1"; None: the latest that is known.

    ``devices`` are the arguments that `device_add` would have, ``capabilities`` those that are on, ``migration`` the
    seconds that a migration takes, ``fails`` its error, empty: none. ``script`` are the lines of a recording.
    """

    version: str | None = None
    devices: tuple[Mapping[str, Any], ...] = ()
    capabilities: tuple[str, ...] = ()
    runstate: str = "running"
    migration: float = 1.0
    fails: str = ""
    faults: tuple[QemuFault, ...] = ()
    script: tuple[Exchange | EventSeen, ...] = field(default=(), repr=False)


def read_description(text: str, name: str) -> Description:
    """Return the description in a TOML text, or in a recording. Raises `UsageError` with the reason."""
    if text.lstrip().startswith("{"):
        return _of_recording(text.splitlines(keepends=True), name)
    try:
        return _description(tomllib.loads(text))
    except RecursionError as error:
        raise UsageError(f"{name}: its arrays or tables are nested too deeply") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{name}: {error}") from error


def _of_recording(texts: Iterable[str], name: str) -> Description:
    """Return the QEMU of a recording. Of several VMs it is the first."""
    lines = [line for _, line in read_lines(texts, name)]
    links = [line for line in lines if isinstance(line, LinkUp)]
    script = [line for line in lines if isinstance(line, Exchange | EventSeen)]
    vm = script[0].vm if script else ""
    version = next((link.qemu for link in links if link.vm == vm), None)
    known = None if version is None else _nearest(version)
    return Description(known, script=tuple(line for line in script if line.vm == vm))


def _nearest(version: str) -> str:
    """Return the latest known version that is not later than this one; the oldest where all are."""
    wanted = _parts(version)
    return next((each for each in reversed(versions()) if _parts(each) <= wanted), versions()[0])


def _parts(version: str) -> tuple[int, ...]:
    return (numbers(version) or ())[:2]


def _description(table: dict[str, Any]) -> Description:
    migration = _table(table.pop("migration", {}), "migration")
    found = Description(
        version=_optional_text(table.pop("version", None), "version"),
        devices=tuple(_device(each) for each in _list(table.pop("device", []), "device")),
        capabilities=tuple(
            _text(each, "capabilities") for each in _list(table.pop("capabilities", []), "capabilities")
        ),
        runstate=_text(table.pop("runstate", "running"), "runstate"),
        migration=_seconds(migration.pop("seconds", 1.0), "migration.seconds"),
        fails=_text(migration.pop("fails", ""), "migration.fails"),
        faults=tuple(_fault(each) for each in _list(table.pop("fault", []), "fault")),
    )
    _nothing_left(table, "the description")
    _nothing_left(migration, "[migration]")
    if found.version is not None and found.version not in versions():
        raise ValueError(f"version {found.version!r} is not known here, but {', '.join(versions())}")
    return found


def _device(value: Any) -> Members:
    members = _table(value, "device")
    _text(members.get("driver"), "device.driver")
    return members


def _fault(value: Any) -> QemuFault:
    members = dict(_table(value, "fault"))
    fault = QemuFault(
        _text(members.pop("command", None), "fault.command"),
        FaultKind(members.pop("kind", None)),
        _seconds(members.pop("seconds", 1.0), "fault.seconds"),
        _count(members.pop("count", 1)),
    )
    _nothing_left(members, "[[fault]]")
    return fault


def _nothing_left(table: Mapping[str, Any], where: str) -> None:
    if table:
        raise ValueError(f"{where} has no {min(table)!r}")


def _table(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{name!r} is a table")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{name!r} is a list")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name!r} is a string")
    return value


def _optional_text(value: Any, name: str) -> str | None:
    return None if value is None else _text(value, name)


def _seconds(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_SECONDS:
        raise ValueError(f"{name!r} is a number of seconds from 0 to {MAX_SECONDS:g}")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("'fault.count' is a number from 1 on")
    return value
