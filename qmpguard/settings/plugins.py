"""`plugins` in a policy: rules from installed packages, by the names of their entry points."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.policy.plugin import PlugIn
from qmpguard.policy.rules import reserved
from qmpguard.settings import values

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from qmpguard.policy.policy import Rule
    from qmpguard.settings.table import Item

#: the group of the entry points
GROUP = "qmpguard.rules"
#: plug-ins of one policy; each judges every judged command
MAX_PLUGINS = 32


def plugins(item: Item) -> tuple[Rule, ...]:
    """Return the rules of a list of plug-ins. Raises the item's error where one is missing or cannot be loaded."""
    wanted = values.names(item)
    if len(wanted) > MAX_PLUGINS or len(set(wanted)) < len(wanted):
        raise item.error(f"it is a list of at most {MAX_PLUGINS} names, each once")
    from importlib.metadata import entry_points  # imported here, since most guards have no plug-ins

    installed = {point.name: point for point in entry_points(group=GROUP)}
    return tuple(_load(name, installed, item) for name in wanted)


def _load(name: str, installed: dict[str, EntryPoint], item: Item) -> Rule:
    if name in reserved():
        raise item.error(f"{name!r} is a built-in rule")
    if name not in installed:
        there = ", ".join(sorted(installed)) or "none"
        raise item.error(f"no installed package has a rule {name!r} (entry points {GROUP}: {there})")
    try:
        function = installed[name].load()
    except BaseException as error:  # the import runs foreign code
        raise item.error(f"plug-in {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(function) or not (function.__doc__ or "").strip():
        raise item.error(f"plug-in {name!r} is not a function with a docstring; the docstring is its documentation")
    return PlugIn(name, function).rule
