"""Every client that is tried on the guard."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from tests.support.clients import programs
from tests.support.clients.tool import talk
from tests.support.clients.tools import TOOLS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Client:
    """One client; ``how`` it is tried; ``talk`` has a conversation at a socket and returns what it was told."""

    name: str
    how: str
    talk: Callable[[Path], list[str]]


_QEMU_QMP = f"qemu.qmp {version('qemu.qmp')}"

CLIENTS = (
    Client("QMPClient", _QEMU_QMP, programs.qmp_client),
    Client("QEMUMonitorProtocol (QEMU's tests)", _QEMU_QMP, programs.legacy),
    Client("qmp-shell", f"{_QEMU_QMP}, on a terminal", programs.qmp_shell),
    Client("qmp-shell -H", f"{_QEMU_QMP}, on a terminal", programs.qmp_shell_hmp),
    Client("qmp", f"PyPI {version('qmp')}", programs.qmp_package),
    Client("socat", "the program", programs.socat),
    *(Client(tool.name, "its way to write and to read, byte for byte", partial(talk, tool)) for tool in TOOLS),
)
