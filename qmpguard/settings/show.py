"""The effective settings as a TOML file, each value with its origin in a comment."""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import TYPE_CHECKING

from qmpguard.access import Role
from qmpguard.policy.mode import Mode
from qmpguard.policy.policy import Rule
from qmpguard.policy.rules import RULES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qmpguard.config import Config, VmConfig
    from qmpguard.settings.read import Settings
    from qmpguard.settings.table import EffectiveValue

#: columns before the origin
WIDTH = 44
_BARE = re.compile(r"[\w-]+")


def lines(settings: Settings) -> Iterator[str]:
    """Yield the settings as lines of TOML. A setting without a value is a comment."""
    for section in settings.report:
        if section.header:
            yield ""
            yield section.header
        for value in section.values:
            yield f"{_assignment(value):{WIDTH}} # {value.origin}"


def notes(config: Config) -> Iterator[str]:
    """Yield notes on settings that are valid but may surprise."""
    for vm in config.vms:
        for note in _notes(vm):
            yield f"{vm.name}: {note}"


def _notes(vm: VmConfig) -> Iterator[str]:
    if not vm.access.is_open:
        yield (
            "only listed users and groups may connect; every client from another user namespace (id 65534: rootless "
            "containers, PrivateUsers=) is refused"
        )
    if vm.socket_mode & 0o007 and vm.access.is_open and vm.role is Role.OPERATOR:
        yield f"socket_mode {vm.socket_mode:04o} lets every local user send commands to QEMU"
    new_monitor = next(rule for rule in RULES if rule.id == "new-monitor").mode(vm.policy)
    if new_monitor is not Mode.ENFORCE:
        yield f"rule new-monitor is in mode {new_monitor.value}: a monitor that was opened cannot be closed again"


def _assignment(value: EffectiveValue) -> str:
    key = value.key if _BARE.fullmatch(value.key) else json.dumps(value.key)
    if value.value is None:
        return f"# {key} is not set"
    return f"{key} = {toml(value)}"


def _element(one: object) -> str:
    match one:
        case Rule(id=name):
            return name
        case Enum(value=value):
            return str(value)
        case _:
            return str(one)


def toml(value: EffectiveValue) -> str:
    """Return a value as TOML writes it."""
    match value.value:
        case bool(flag):
            return "true" if flag else "false"
        case int(number) if value.key == "socket_mode":
            return f'"{number:04o}"'
        case int(number) if value.key == "socket_group":
            return f'"{number}"'
        case int(number) | float(number):
            return f"{number:g}" if isinstance(number, float) else str(number)
        case Enum() as member:
            return json.dumps(member.value)
        case tuple() | frozenset() as many:
            return json.dumps(sorted(map(_element, many)))
        case other:
            return json.dumps(str(other), ensure_ascii=False)
