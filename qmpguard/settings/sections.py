"""The tables of the settings, each read into its part of the `Config`. Files and options have the same tables."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qmpguard.access import Access, Role
from qmpguard.address import MAX_UNIX_PATH, Inbound, TcpAddress, UnixAddress
from qmpguard.config import Absent, AdminConfig, LogConfig, LogFormat, LogLevel, VmConfig
from qmpguard.policy.mode import Mode, Profile
from qmpguard.policy.policy import Policy, Rule
from qmpguard.policy.rules import UNVERIFIED, added, table
from qmpguard.proxy.listening.moved_socket import BESIDE_SUFFIX, moved_path
from qmpguard.settings import accounts, values
from qmpguard.settings.combinations import read_combinations
from qmpguard.settings.plugins import plugins

if TYPE_CHECKING:
    from qmpguard.address import ListenAddress, QemuAddress
    from qmpguard.policy.rules import Row
    from qmpguard.settings.table import Item, Table

#: the highest seconds of a timeout (an hour), and of an interval (a day)
MAX_WAIT, MAX_INTERVAL = 3600.0, 86400.0
#: the allowed range of max_clients: each client takes a descriptor
CLIENTS_RANGE = (1, 65536)
#: the allowed range of max_request in bytes. QEMU reads 64 MiB, and re-encoding makes a request up to six times longer
REQUEST_RANGE = (4096, 10 << 20)
#: the defaults of a VM
_DEFAULT = VmConfig("", UnixAddress(""), UnixAddress(""))
NO_NAMES: tuple[str, ...] = ()
NO_RULES: tuple[Rule, ...] = ()


def read_policy(settings: Table) -> Policy:
    """Read ``[policy]`` or ``[vm.policy]``."""
    mode = settings.take("mode", values.choice(Mode, Mode.ENFORCE, Mode.WARN), Mode.ENFORCE)
    profile = settings.take("profile", values.choice(Profile), Profile.STANDARD)
    extra_types = frozenset(settings.take("extra_types", values.names, NO_NAMES))
    exempt = settings.take("allow_failover_primary", values.flag, default=False)
    plugged = settings.take("plugins", plugins, NO_RULES)
    rows = read_combinations(settings, frozenset(rule.id for rule in plugged))
    policy = Policy(mode, profile, {}, extra_types, exempt, rows, plugged)
    rules = _read_rules(settings.table("rules"), profile, (*table(), *added(policy)))
    settings.reject_unknown()
    return replace(policy, rules=rules)


def _read_rules(settings: Table, profile: Profile, known: tuple[Row, ...]) -> dict[str, Mode]:
    """Return the modes that are set. Each other rule is reported with its default."""
    modes = {}
    for rule, standard, strict, _ in known:
        written = settings.has(rule)
        allowed = (Mode.ENFORCE, Mode.WARN) if rule == UNVERIFIED else tuple(Mode)
        default = Mode(strict if profile is Profile.STRICT else standard)
        mode = settings.take(rule, values.choice(Mode, *allowed), default)
        if written:
            modes[rule] = mode
    settings.reject_unknown()
    return modes


def read_vm(settings: Table, policy: Policy, *, name: str | None = None) -> VmConfig:
    """Read ``[[vm]]``; ``policy`` is that of ``[policy]``, ``name`` the default name; None: a name is required."""
    called = settings.require("name", values.name) if name is None else settings.take("name", values.name, name)
    endpoints = _read_endpoints(settings)
    vm = VmConfig(
        called,
        endpoints.qemu,
        endpoints.listen,
        read_policy(settings.table("policy")) if settings.has("policy") else policy,
        survey_timeout=settings.take("survey_timeout", values.Seconds(0, MAX_WAIT), _DEFAULT.survey_timeout),
        watch=settings.take("drift_interval", values.Seconds(0, MAX_INTERVAL, zero="no look"), _DEFAULT.watch),
        socket_mode=settings.take("socket_mode", values.file_mode, _DEFAULT.socket_mode),
        socket_group=settings.take("socket_group", accounts.group, None),
        access=_read_access(settings, endpoints.listen),
        role=settings.take("role", values.choice(Role), _DEFAULT.role),
        max_clients=settings.take("max_clients", values.Count(*CLIENTS_RANGE), _DEFAULT.max_clients),
        max_request=settings.take("max_request", values.Count(*REQUEST_RANGE), _DEFAULT.max_request),
        takeover=endpoints.takeover,
        absent=settings.take("absent", values.choice(Absent), _DEFAULT.absent),
    )
    settings.reject_unknown(("policy",))
    return vm


@dataclass(frozen=True, slots=True)
class _Endpoints:
    """The two addresses of a guard: QEMU's and the clients'."""

    qemu: QemuAddress
    listen: ListenAddress
    takeover: str | None = None


def _read_endpoints(settings: Table) -> _Endpoints:
    if settings.has("takeover"):
        return _read_takeover(settings)
    qemu = _read_inbound(settings) if settings.has("qemu_listen") else settings.require("qemu", values.address)
    return _Endpoints(qemu, settings.require("listen", values.listen_address))


def _read_inbound(settings: Table) -> Inbound:
    if settings.has("qemu"):
        other = settings.called("qemu_listen")
        raise settings.item("qemu").error(f"it excludes {other}: either QEMU listens, or the guard does")
    return Inbound(settings.require("qemu_listen", values.listen_address))


def _read_takeover(settings: Table) -> _Endpoints:
    for key in ("qemu", "qemu_listen", "listen"):
        if settings.has(key):
            other = settings.called("takeover")
            raise settings.item(key).error(f"it excludes {other}, which sets both addresses by one path")
    path = settings.require("takeover", takeover_path)
    return _Endpoints(UnixAddress(moved_path(path)), UnixAddress(path), path)


def takeover_path(item: Item) -> str:
    """Return the path of a socket that can be moved."""
    path = values.socket_path(item)
    if len(os.fsencode(path + BESIDE_SUFFIX)) > MAX_UNIX_PATH:
        raise item.error(
            f"with {BESIDE_SUFFIX!r} appended it is longer than the {MAX_UNIX_PATH} bytes of a socket's path"
        )
    return path


def _read_access(settings: Table, listen: ListenAddress) -> Access:
    lists = [key for key in ("allow_users", "allow_groups") if settings.has(key)]
    if lists and isinstance(listen, TcpAddress):
        raise settings.item(lists[0]).error("a TCP client has no user or group; listen at a unix socket")
    users = settings.take("allow_users", accounts.users, None)
    return Access(users, settings.take("allow_groups", accounts.groups, None))


def read_admin(settings: Table) -> AdminConfig | None:
    """Read ``[admin]``; None where it has no listen."""
    if not settings.has("listen"):
        for key in ("token_file", "hosts"):
            if settings.has(key):
                raise settings.item(key).error(f"it has no effect without {settings.called('listen')}")
        settings.reject_unknown(("listen",))
        return None
    item = settings.item("listen")
    admin = AdminConfig(
        settings.require("listen", values.listen_address),
        settings.take("token_file", values.path, None),
        settings.take("hosts", values.names, ()),
    )
    if isinstance(admin.listen, TcpAddress) and admin.token_file is None:
        raise item.error(f"TCP needs {settings.called('token_file')}, a file with a secret; or listen at a unix socket")
    settings.reject_unknown()
    return admin


def read_log(settings: Table) -> LogConfig:
    """Read ``[log]``."""
    log = LogConfig(
        settings.take("level", values.choice(LogLevel), LogLevel.INFO),
        settings.take("format", values.choice(LogFormat), LogFormat.TEXT),
        settings.take("audit", values.path, None),
        settings.take("traffic", values.path, None),
        frozenset(settings.take("traffic_exclude", values.names, NO_NAMES)),
        settings.take("otel", values.flag, False),
        settings.take("record", values.path, None),
    )
    settings.reject_unknown()
    return log
