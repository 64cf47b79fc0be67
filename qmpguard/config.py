"""The configuration of a guard: frozen values, and the one place of each default.

`qmpguard.settings` reads and checks it from files, options and the environment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from qmpguard.access import OPEN, Access, Role
from qmpguard.policy.policy import Policy
from qmpguard.wire.framing import MAX_REQUEST

if TYPE_CHECKING:
    from qmpguard.address import ListenAddress, QemuAddress
    from qmpguard.policy.device import Device

#: the name of a VM that options describe
NAME = "vm"
#: seconds that an operation waits for its turn and for QEMU's answers before it is refused as unverified
SURVEY_TIMEOUT = 60.0
#: seconds between two queries of the drift watch
DRIFT_INTERVAL = 30.0
#: bytes that a client may leave unread before it is disconnected; QEMU's largest reply is a sixtieth of it
MAX_UNREAD = 16 << 20
#: clients of one VM at once
MAX_CLIENTS = 1024
#: seconds that a client waits for QEMU's greeting before it is disconnected
GREETING_TIMEOUT = 60.0
#: permissions of the clients' socket
SOCKET_MODE = 0o600


class Absent(Enum):
    """The treatment of clients that connect after QEMU has ended."""

    REFUSE = "refuse"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one VM's clients, and their access rights. Times are in seconds, sizes in bytes.

    ``watch`` is the interval of the drift watch; 0: no drift watch.
    """

    survey_timeout: float = SURVEY_TIMEOUT
    max_request: int = MAX_REQUEST
    max_unread: int = MAX_UNREAD
    max_clients: int = MAX_CLIENTS
    greeting_wait: float = GREETING_TIMEOUT
    watch: float = DRIFT_INTERVAL
    access: Access = OPEN
    role: Role = Role.OPERATOR


@dataclass(frozen=True, slots=True)
class VmConfig:
    """One VM: QEMU's address, the clients' socket and their access rights, the policy and the limits.

    Times are in seconds, sizes in bytes. ``takeover``: the path of QEMU's socket, which the guard moves to ``qemu`` and
    replaces by its own, ``listen``.
    """

    name: str
    qemu: QemuAddress
    listen: ListenAddress
    policy: Policy = field(default_factory=Policy)
    survey_timeout: float = SURVEY_TIMEOUT
    watch: float = DRIFT_INTERVAL
    socket_mode: int = SOCKET_MODE
    socket_group: int | None = None
    access: Access = OPEN
    role: Role = Role.OPERATOR
    max_clients: int = MAX_CLIENTS
    max_request: int = MAX_REQUEST
    takeover: str | None = None
    absent: Absent = Absent.REFUSE
    netdevs: tuple[Device, ...] = ()  # on QEMU's command line, where `exec` has read it

    @property
    def limits(self) -> Limits:
        """The limits of the clients; those that no setting names have their defaults."""
        return Limits(
            survey_timeout=self.survey_timeout,
            max_request=self.max_request,
            max_clients=self.max_clients,
            watch=self.watch,
            access=self.access,
            role=self.role,
        )


@dataclass(frozen=True, slots=True)
class AdminConfig:
    """The admin interface: its address, the file of the token for TCP, and host names that browsers may use."""

    listen: ListenAddress
    token_file: str | None = None
    hosts: tuple[str, ...] = ()


class LogFormat(Enum):
    """The format of the log."""

    TEXT = "text"
    JSON = "json"


class LogLevel(Enum):
    """The least level of a line that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class LogConfig:
    """The log's level and format, and the files for audit and traffic. The traffic file omits the commands ``exclude``.

    ``otel``: decisions are also exported to OpenTelemetry. ``record``: the file for the recording of all conversations.
    """

    level: LogLevel = LogLevel.INFO
    format: LogFormat = LogFormat.TEXT
    audit: str | None = None
    traffic: str | None = None
    exclude: frozenset[str] = frozenset()
    otel: bool = False
    record: str | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration of one process. ``end_with_qemu``: it ends when every QEMU has ended."""

    vms: tuple[VmConfig, ...]
    admin: AdminConfig | None = None
    log: LogConfig = field(default_factory=LogConfig)
    end_with_qemu: bool = False
