"""What a guard is told to do, checked once and frozen. `qmpguard.settings` makes it of what people write."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from qmpguard.access import OPEN, Access, Role
from qmpguard.policy.policy import Policy
from qmpguard.wire.framing import MAX_REQUEST

if TYPE_CHECKING:
    from qmpguard.address import ListenAddress, QemuAddress

#: clients of one VM at once, where nobody says otherwise
MAX_CLIENTS = 1024


class Absent(Enum):
    """What becomes of clients that connect while QEMU, which has been there, is gone."""

    REFUSE = "refuse"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class VmConfig:
    """One VM: where its QEMU is, where its clients come in, who they may be, and what is judged how.

    Times are in seconds, sizes in bytes. ``takeover``: the path of QEMU's socket, which is moved aside for ours;
    ``qemu`` is then where it is moved to, and ``listen`` where it was.
    """

    name: str
    qemu: QemuAddress
    listen: ListenAddress
    policy: Policy = field(default_factory=Policy)
    survey_timeout: float = 60.0
    watch: float = 30.0
    socket_mode: int = 0o600
    socket_group: int | None = None
    access: Access = OPEN
    role: Role = Role.OPERATOR
    max_clients: int = MAX_CLIENTS
    max_request: int = MAX_REQUEST
    takeover: str | None = None
    absent: Absent = Absent.REFUSE


@dataclass(frozen=True, slots=True)
class AdminConfig:
    """Where the admin interface listens, the file with TCP's token, and names that a browser may call it by."""

    listen: ListenAddress
    token_file: str | None = None
    hosts: tuple[str, ...] = ()


class LogFormat(Enum):
    """What a line of the log is."""

    TEXT = "text"
    JSON = "json"


class LogLevel(Enum):
    """From what importance on a line is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What is logged, and the files for audit and traffic. ``exclude``: commands that the traffic leaves out.

    ``otel``: decisions are also exported to OpenTelemetry.
    """

    level: LogLevel = LogLevel.INFO
    format: LogFormat = LogFormat.TEXT
    audit: str | None = None
    traffic: str | None = None
    exclude: frozenset[str] = frozenset()
    otel: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that one process guards. ``end_with_qemu``: it ends when the QEMUs of all its VMs have ended."""

    vms: tuple[VmConfig, ...]
    admin: AdminConfig | None = None
    log: LogConfig = field(default_factory=LogConfig)
    end_with_qemu: bool = False
