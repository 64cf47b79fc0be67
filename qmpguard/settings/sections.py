"""The tables of the settings, each read into its part of the `Config`. Files and flags have the same ones."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qmpguard.access import Access, Role
from qmpguard.address import MAX_UNIX_PATH, Inbound, TcpAddress, UnixAddress
from qmpguard.config import Absent, AdminConfig, LogConfig, LogFormat, LogLevel, VmConfig
from qmpguard.policy.policy import Mode, Policy, Profile, Rule
from qmpguard.policy.rules import UNVERIFIED, added, table
from qmpguard.proxy.listening.takeover import ASIDE
from qmpguard.settings import people, values
from qmpguard.settings.combinations import read_combinations
from qmpguard.settings.plugins import plugins

if TYPE_CHECKING:
    from qmpguard.address import ListenAddress, QemuAddress
    from qmpguard.policy.rules import Row
    from qmpguard.settings.table import Item, Table

#: seconds that a setting may name at most: an hour for a wait, a day between two looks
LONGEST_WAIT, LONGEST_INTERVAL = 3600.0, 86400.0
#: clients of one VM that can be asked for: each takes a descriptor
MOST_CLIENTS = 65536
#: bytes of a request: every client needs some, and QEMU reads 64 MiB, which a sixth of it may become in our spelling
SMALLEST_REQUEST, LARGEST_REQUEST = 4096, 10 << 20
#: what holds for a VM where nothing is written: the defaults of its config, and of no other place
_DEFAULT = VmConfig("", UnixAddress(""), UnixAddress(""))
#: a list with nothing in it
NONE: tuple[str, ...] = ()
NO_RULES: tuple[Rule, ...] = ()


def read_policy(settings: Table) -> Policy:
    """Read ``[policy]`` or ``[vm.policy]``."""
    mode = settings.take("mode", values.choice(Mode, Mode.ENFORCE, Mode.WARN), Mode.ENFORCE)
    profile = settings.take("profile", values.choice(Profile), Profile.STANDARD)
    extra_types = frozenset(settings.take("extra_types", values.names, NONE))
    exempt = settings.take("allow_failover_primary", values.flag, default=False)
    plugged = settings.take("plugins", plugins, NO_RULES)
    rows = read_combinations(settings, frozenset(rule.id for rule in plugged))
    policy = Policy(mode, profile, {}, extra_types, exempt, rows, plugged)
    rules = _read_rules(settings.table("rules"), profile, (*table(), *added(policy)))
    settings.done()
    return replace(policy, rules=rules)


def _read_rules(settings: Table, profile: Profile, known: tuple[Row, ...]) -> dict[str, Mode]:
    """Return the modes that were written; what holds for the others is noted as their default."""
    modes = {}
    for rule, standard, strict, _ in known:
        written = settings.has(rule)
        allowed = (Mode.ENFORCE, Mode.WARN) if rule == UNVERIFIED else tuple(Mode)
        default = Mode(strict if profile is Profile.STRICT else standard)
        mode = settings.take(rule, values.choice(Mode, *allowed), default)
        if written:
            modes[rule] = mode
    settings.done()
    return modes


def read_vm(settings: Table, policy: Policy, *, name: str | None = None) -> VmConfig:
    """Read ``[[vm]]``; ``policy`` is that of ``[policy]``, ``name`` the VM's where none needs to be given."""
    called = settings.need("name", values.name) if name is None else settings.take("name", values.name, name)
    ends = _read_ends(settings)
    vm = VmConfig(
        called,
        ends.qemu,
        ends.listen,
        read_policy(settings.table("policy")) if settings.has("policy") else policy,
        survey_timeout=settings.take("survey_timeout", values.Seconds(0, LONGEST_WAIT), _DEFAULT.survey_timeout),
        watch=settings.take("drift_interval", values.Seconds(0, LONGEST_INTERVAL, zero="no look"), _DEFAULT.watch),
        socket_mode=settings.take("socket_mode", values.file_mode, _DEFAULT.socket_mode),
        socket_group=settings.take("socket_group", people.group, None),
        access=_read_access(settings, ends.listen),
        role=settings.take("role", values.choice(Role), _DEFAULT.role),
        max_clients=settings.take("max_clients", values.Count(1, MOST_CLIENTS), _DEFAULT.max_clients),
        max_request=settings.take("max_request", values.Count(SMALLEST_REQUEST, LARGEST_REQUEST), _DEFAULT.max_request),
        takeover=ends.takeover,
        absent=settings.take("absent", values.choice(Absent), _DEFAULT.absent),
    )
    settings.done(("policy",))
    return vm


@dataclass(frozen=True, slots=True)
class _Ends:
    """The two ends of a guard."""

    qemu: QemuAddress
    listen: ListenAddress
    takeover: str | None = None


def _read_ends(settings: Table) -> _Ends:
    if settings.has("takeover"):
        return _read_takeover(settings)
    qemu = _read_inbound(settings) if settings.has("qemu_listen") else settings.need("qemu", values.address)
    return _Ends(qemu, settings.need("listen", values.listen_address))


def _read_inbound(settings: Table) -> Inbound:
    if settings.has("qemu"):
        beside = settings.called("qemu_listen")
        raise settings.item("qemu").wrong(f"it cannot be set beside {beside}: either QEMU listens, or the guard does")
    return Inbound(settings.need("qemu_listen", values.address))


def _read_takeover(settings: Table) -> _Ends:
    for key in ("qemu", "qemu_listen", "listen"):
        if settings.has(key):
            beside = settings.called("takeover")
            raise settings.item(key).wrong(f"it cannot be set beside {beside}, which names both ends by one path")
    path = settings.need("takeover", takeover_path)
    return _Ends(UnixAddress(path + ASIDE), UnixAddress(path), path)


def takeover_path(item: Item) -> str:
    """Return the path of a socket that can be moved aside."""
    path = values.socket_path(item)
    if len(os.fsencode(path + ASIDE)) > MAX_UNIX_PATH:
        raise item.wrong(f"with {ASIDE!r} behind it, it has more than the {MAX_UNIX_PATH} bytes of a socket's path")
    return path


def _read_access(settings: Table, listen: ListenAddress) -> Access:
    lists = [key for key in ("allow_users", "allow_groups") if settings.has(key)]
    if lists and isinstance(listen, TcpAddress):
        raise settings.item(lists[0]).wrong("a TCP socket cannot tell who its clients are; listen at a unix socket")
    users = settings.take("allow_users", people.users, None)
    return Access(users, settings.take("allow_groups", people.groups, None))


def read_admin(settings: Table) -> AdminConfig | None:
    """Read ``[admin]``; None where nothing is to listen."""
    if not settings.has("listen"):
        for key in ("token_file", "hosts"):
            if settings.has(key):
                raise settings.item(key).wrong(f"it is of no use without {settings.called('listen')}")
        settings.done(("listen",))
        return None
    item = settings.item("listen")
    admin = AdminConfig(
        settings.need("listen", values.listen_address),
        settings.take("token_file", values.path, None),
        settings.take("hosts", values.names, ()),
    )
    if isinstance(admin.listen, TcpAddress) and admin.token_file is None:
        raise item.wrong(f"TCP needs {settings.called('token_file')}, a file with a secret; or listen at a unix socket")
    settings.done()
    return admin


def read_log(settings: Table) -> LogConfig:
    """Read ``[log]``."""
    log = LogConfig(
        settings.take("level", values.choice(LogLevel), LogLevel.INFO),
        settings.take("format", values.choice(LogFormat), LogFormat.TEXT),
        settings.take("audit", values.path, None),
        settings.take("traffic", values.path, None),
        frozenset(settings.take("traffic_exclude", values.names, NONE)),
        settings.take("otel", values.flag, False),
    )
    settings.done()
    return log
