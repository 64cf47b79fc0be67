"""Reads all settings, checks them against each other, and returns a `Config`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qmpguard.address import Inbound, UnixAddress
from qmpguard.config import NAME, Config
from qmpguard.errors import ConfigError, QmpguardError, UsageError
from qmpguard.settings.file import File
from qmpguard.settings.sections import read_admin, read_log, read_policy, read_vm
from qmpguard.settings.table import Section, Table
from qmpguard.settings.values import flag
from qmpguard.threads import BlockingCalls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpguard.address import ListenAddress
    from qmpguard.config import VmConfig
    from qmpguard.settings.options import OptionValues
    from qmpguard.settings.table import Item, Source
    from qmpguard.settings.toml_lines import Path

#: seconds for reading: a file system or the name service may hang
TIMEOUT = 30.0
#: characters of an error, which repeats the setting
MAX_ERROR = 600
_reading = BlockingCalls("reading the configuration", TIMEOUT)


@dataclass(frozen=True, slots=True)
class Settings:
    """A config, and each of its values with its origin."""

    config: Config
    report: tuple[Section, ...]


def read_file(name: str) -> Settings:
    """Return the settings of a file. Raises `ConfigError`, which names the line."""
    return _settings(lambda: _from_file(name))


def read_options(options: OptionValues) -> Settings:
    """Return the settings of flags, environment and the file in --config. Raises `UsageError` or `ConfigError`."""
    return _settings(lambda: _from_options(options))


def _settings(read: Callable[[], Settings]) -> Settings:
    """Return the settings that ``read`` returns, within `TIMEOUT`. Raises nothing but `QmpguardError`."""
    try:
        return _reading.call_now(read)
    except QmpguardError as error:
        raise type(error)(_one_line(str(error))) from error.__cause__
    except Exception as error:
        raise ConfigError(_one_line(f"the configuration cannot be read: {type(error).__name__}: {error}")) from error


def _one_line(text: str) -> str:
    """Return an error's text as one line. Of a text over `MAX_ERROR` characters the middle is left out."""
    line = " ".join(text.splitlines())
    half = MAX_ERROR // 2
    return line if len(line) <= MAX_ERROR else f"{line[:half]} ... {line[-half:]}"


def _from_file(name: str) -> Settings:
    file = File(name)
    return read_values(file, file.values)


def _from_options(options: OptionValues) -> Settings:
    if options.config is None:
        values = {**options.values, "vm": [options.values.get("vm", {})]}
        return read_values(options, values, name=NAME)
    if options.vm_option:
        raise UsageError(f"{options.vm_option}: with {options.called(())} it must be set in the file, {options.config}")
    file = File(options.config)
    return read_values(_Merged(options, file), _merge(file.values, options.values))


class _Merged:
    """A file, and options that override it."""

    def __init__(self, options: OptionValues, file: File) -> None:
        self._options = options
        self._file = file

    def item(self, path: Path, value: object) -> Item:
        return (self._options if self._options.has(path) else self._file).item(path, value)

    def missing(self, path: Path) -> QmpguardError:
        return self._file.missing(path)

    def called(self, path: Path) -> str:
        return (self._options if self._options.has(path) else self._file).called(path)


def _merge(file: Mapping[str, object], options: Mapping[str, object]) -> dict[str, object]:
    """Return the values of a file, overridden by options, table by table."""
    merged = dict(file)
    for key, value in options.items():
        below = file.get(key, {})
        if not isinstance(value, dict):
            merged[key] = value
        elif isinstance(below, dict):
            merged[key] = {**below, **value}
    return merged


def read_values(source: Source, values: Mapping[str, object], *, name: str | None = None) -> Settings:
    """Return the settings in tables; ``name``: the default name of a VM. Raises `UsageError` or `ConfigError`."""
    report: list[Section] = []
    top = Table(source, (), values, report)
    policy = read_policy(top.table("policy"))
    vms = []
    claimed: dict[str, str] = {}
    for settings in top.tables("vm"):
        endpoints = {key: settings.item(key) for key in _CLAIMING if settings.has(key)}
        vms.append(read_vm(settings, policy, name=name))
        _claim(claimed, endpoints, vms[-1])
    admin = read_admin(top.table("admin"))
    log = read_log(top.table("log"))
    end_with_qemu = top.take("end_with_qemu", flag, default=False)
    top.reject_unknown()
    if not vms:
        raise source.missing(("vm",))
    return Settings(
        Config(tuple(vms), admin, log, end_with_qemu), tuple(section for section in report if section.values)
    )


#: the settings that must differ between VMs
_CLAIMING = ("name", "qemu", "qemu_listen", "listen", "takeover")


def _claim(claimed: dict[str, str], items: dict[str, Item], vm: VmConfig) -> None:
    """Record a VM's name and sockets. Raises an error where another VM has them already."""
    claims = {"name": f"the name {vm.name!r}", "qemu": _place(vm.qemu), "listen": _place(vm.listen)}
    if vm.takeover:
        claims["takeover"] = claims.pop("listen")
    if isinstance(vm.qemu, Inbound):
        claims["qemu_listen"] = claims.pop("qemu")
    for key, claim in claims.items():
        if claim in claimed:
            item = items[key if key in items else "takeover"]
            raise item.error(f"{claim} is taken already, at {claimed[claim]}")
        claimed[claim] = items[key].origin if key in items else "the same VM"


def _place(address: ListenAddress | Inbound) -> str:
    if isinstance(address, Inbound):
        return _place(address.at)
    return f"unix:{os.path.normpath(address.path)}" if isinstance(address, UnixAddress) else str(address)
