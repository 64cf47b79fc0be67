"""The whole of the settings: read, checked against each other, and made into a `Config`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qmpguard.address import Inbound, UnixAddress
from qmpguard.config import Config
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
    from qmpguard.settings.options import Words
    from qmpguard.settings.places import Path
    from qmpguard.settings.table import Item, Origin

#: seconds that reading may take: files may be on a hung file system, and users looked up at a server that hangs
TIMEOUT = 30.0
#: characters of an error: it repeats what was written
MAX_TOLD = 600
_reading = BlockingCalls("reading the configuration", TIMEOUT)
#: what a VM is called that flags describe, where they do not name it
NAME = "vm"


@dataclass(frozen=True, slots=True)
class Settings:
    """A config, and for each of its values where it comes from."""

    config: Config
    report: tuple[Section, ...]


def read_file(name: str) -> Settings:
    """Read a file. Raises `ConfigError`, which names the line."""
    return _settings(lambda: _of_file(name))


def read_words(words: Words) -> Settings:
    """Read what flags and environment say, and the file that they name. Raises `UsageError` or `ConfigError`."""
    return _settings(lambda: _of_words(words))


def _settings(read: Callable[[], Settings]) -> Settings:
    """Return what is read, within `TIMEOUT`. Whatever is wrong with it is a `QmpguardError`."""
    try:
        return _reading.call_now(read)
    except QmpguardError as error:
        raise type(error)(_one_line(str(error))) from error.__cause__
    except Exception as error:
        raise ConfigError(_one_line(f"the configuration cannot be read: {type(error).__name__}: {error}")) from error


def _one_line(text: str) -> str:
    """Return an error's text as one line of at most `MAX_TOLD` characters; where it is longer, its end says what is."""
    line = " ".join(text.splitlines())
    half = MAX_TOLD // 2
    return line if len(line) <= MAX_TOLD else f"{line[:half]} ... {line[-half:]}"


def _of_file(name: str) -> Settings:
    file = File(name)
    return read_values(file, file.values)


def _of_words(words: Words) -> Settings:
    if words.config is None:
        values = {**words.values, "vm": [words.values.get("vm", {})]}
        return read_values(words, values, name=NAME)
    if words.of_vm:
        raise UsageError(f"{words.of_vm}: beside {words.called(())} it belongs into the file, {words.config}")
    file = File(words.config)
    return read_values(_Both(words, file), _over(file.values, words.values))


class _Both:
    """A file, and flags that stand above it."""

    def __init__(self, words: Words, file: File) -> None:
        self._words = words
        self._file = file

    def item(self, path: Path, value: object) -> Item:
        return (self._words if self._words.has(path) else self._file).item(path, value)

    def lacks(self, path: Path) -> QmpguardError:
        return self._file.lacks(path)

    def called(self, path: Path) -> str:
        return (self._words if self._words.has(path) else self._file).called(path)


def _over(file: Mapping[str, object], words: Mapping[str, object]) -> dict[str, object]:
    """Return the values of a file with those of flags over them, table by table."""
    merged = dict(file)
    for key, word in words.items():
        below = file.get(key, {})
        if not isinstance(word, dict):
            merged[key] = word
        elif isinstance(below, dict):
            merged[key] = {**below, **word}
    return merged


def read_values(source: Origin, values: Mapping[str, object], *, name: str | None = None) -> Settings:
    """Read tables; ``name``: a VM's that has none. Raises `UsageError` or `ConfigError`, as ``source`` makes them."""
    report: list[Section] = []
    top = Table(source, (), values, report)
    policy = read_policy(top.table("policy"))
    vms = []
    taken: dict[str, str] = {}
    for settings in top.tables("vm"):
        ends = {key: settings.item(key) for key in _CLAIMING if settings.has(key)}
        vms.append(read_vm(settings, policy, name=name))
        _claim(taken, ends, vms[-1])
    admin = read_admin(top.table("admin"))
    log = read_log(top.table("log"))
    end_with_qemu = top.take("end_with_qemu", flag, default=False)
    top.done()
    if not vms:
        raise source.lacks(("vm",))
    return Settings(
        Config(tuple(vms), admin, log, end_with_qemu), tuple(section for section in report if section.values)
    )


#: what only one VM may have
_CLAIMING = ("name", "qemu", "qemu_listen", "listen", "takeover")


def _claim(taken: dict[str, str], items: dict[str, Item], vm: VmConfig) -> None:
    """Note a VM's name and sockets; raises an error where another VM has them already."""
    claims = {"name": f"the name {vm.name!r}", "qemu": _place(vm.qemu), "listen": _place(vm.listen)}
    if vm.takeover:
        claims["takeover"] = claims.pop("listen")
    if isinstance(vm.qemu, Inbound):
        claims["qemu_listen"] = claims.pop("qemu")
    for key, claim in claims.items():
        if claim in taken:
            item = items[key if key in items else "takeover"]
            raise item.wrong(f"{claim} is taken already, at {taken[claim]}")
        taken[claim] = items[key].origin if key in items else "the same VM"


def _place(address: ListenAddress | Inbound) -> str:
    if isinstance(address, Inbound):
        return _place(address.at)
    return f"unix:{os.path.normpath(address.path)}" if isinstance(address, UnixAddress) else str(address)
