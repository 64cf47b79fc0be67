"""What completions offer behind an option: taken from the tables that read its value, so that no list stands twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpguard.commands.tail import KINDS
from qmpguard.policy.mode import Mode
from qmpguard.policy.rules import UNVERIFIED, table
from qmpguard.settings.options import OPTIONS
from qmpguard.settings.schema import schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qmpguard.settings.toml_lines import Path


def offers() -> Mapping[str, tuple[str, ...]]:
    """Return the values of each flag that has few of them; of a list, those of its first element."""
    rules = tuple(rule for rule, *_ in table())
    settings = schema()
    found = {f"--{option.flag}": _values(settings, option.path) for option in OPTIONS}
    return {
        **{flag: values for flag, values in found.items() if values},
        "--rules": tuple(f"{rule}={mode}" for rule in rules for mode in _modes(rule)),
        "--rule": rules,
        "--kinds": tuple(KINDS.split(",")),
    }


def _modes(rule: str) -> Iterator[str]:
    return (mode.value for mode in Mode if rule != UNVERIFIED or mode is not Mode.OFF)


def _values(settings: Any, path: Path) -> tuple[str, ...]:
    """Return the values that a setting can have by the schema; none where they are too many to tell."""
    for key in path:
        settings = settings["items"] if isinstance(key, int) else settings["properties"][key]
    return ("true", "false") if settings.get("type") == "boolean" else tuple(settings.get("enum", ()))
