"""Settings from files, flags and the environment: what they become, and what is said where they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from qmpguard.access import Access, Role
from qmpguard.address import Inbound, NamedAddress, TcpAddress, UnixAddress
from qmpguard.config import AdminConfig, Config, LogConfig, LogFormat, LogLevel, VmConfig
from qmpguard.errors import ConfigError, UsageError
from qmpguard.policy.mode import Mode, Profile
from qmpguard.policy.policy import Policy
from qmpguard.settings.options import OPTIONS, Option, OptionValues
from qmpguard.settings.read import read_file, read_options
from qmpguard.settings.show import lines, notes

VM = '[[vm]]\nname = "a"\nqemu = "/q"\nlisten = "/l"\n'
FULL = """
[policy]
profile = "strict"
rules.hmp-write = "warn"

[[vm]]
name = "web1"
qemu = "/run/q1"
listen = "unix:/run/l1"
socket_mode = "0660"
socket_group = "0"
allow_users = ["root", "17"]
allow_groups = ["root"]
role = "observer"
max_clients = 5
max_request = 10485760
survey_timeout = 2.5
drift_interval = 0

[[vm]]
name = "web2"
qemu = "tcp:127.0.0.1:4444"
listen = "fd:two"
policy = { mode = "warn", extra_types = ["x"], allow_failover_primary = true }

[[vm]]
name = "web3"
takeover = "/run/3"

[[vm]]
name = "web4"
qemu_listen = "/run/q4"
listen = "/run/l4"

[admin]
listen = "tcp:127.0.0.1:80"
token_file = "/etc/token"
hosts = ["guard.example"]

[log]
level = "debug"
format = "json"
audit = "/a"
traffic = "/t"
traffic_exclude = ["query-status"]
otel = true
"""


def of(tmp_path: Path, text: str) -> Config:
    (tmp_path / "c.toml").write_text(text)
    return read_file(str(tmp_path / "c.toml")).config


def test_a_file_that_says_everything(tmp_path: Path) -> None:
    strict = Policy(profile=Profile.STRICT, rules={"hmp-write": Mode.WARN})
    assert of(tmp_path, FULL) == Config(
        (
            VmConfig(
                *("web1", UnixAddress("/run/q1"), UnixAddress("/run/l1"), strict, 2.5, 0.0, 0o660, 0),
                access=Access(frozenset({0, 17}), frozenset({0})),
                role=Role.OBSERVER,
                max_clients=5,
                max_request=10 << 20,
            ),
            VmConfig(
                *("web2", TcpAddress("127.0.0.1", 4444), NamedAddress("two")),
                Policy(Mode.WARN, extra_types=frozenset({"x"}), allow_failover_primary=True),
            ),
            VmConfig("web3", UnixAddress("/run/3.guard/qemu"), UnixAddress("/run/3"), strict, takeover="/run/3"),
            VmConfig("web4", Inbound(UnixAddress("/run/q4")), UnixAddress("/run/l4"), strict),
        ),
        AdminConfig(TcpAddress("127.0.0.1", 80), "/etc/token", ("guard.example",)),
        LogConfig(LogLevel.DEBUG, LogFormat.JSON, "/a", "/t", frozenset({"query-status"}), otel=True),
    )


def test_defaults_are_those_of_the_config(tmp_path: Path) -> None:
    assert of(tmp_path, VM) == Config((VmConfig("a", UnixAddress("/q"), UnixAddress("/l")),))


WRONG = [
    ("", "c.toml: no VM: write [[vm]]"),
    ("[[vm]", "c.toml:1: Expected ']]' at the end of an array declaration"),
    (VM + "name = 'b'", "c.toml:5: Cannot overwrite a value"),
    (VM + "colour = 1", "c.toml:5: unknown key 'colour' in [[vm]]: there are "),
    (VM + "survey_timout = 1", "c.toml:5: unknown key 'survey_timout' in [[vm]]: did you mean 'survey_timeout'?"),
    ("[[vm]]\nname = 'a'\nlisten = '/l'", "c.toml:1: [[vm]] needs qemu"),
    ("[[vm]]\nname = 'a'\nqemu='/q'\nlisen = '/l'", "c.toml:4: unknown key 'lisen' in [[vm]]: did you mean 'listen'?"),
    ("[polcy]\n" + VM, "c.toml:1: unknown key 'polcy': did you mean 'policy'?"),
    ("vm = 3", "c.toml:1: vm = 3: write [[vm]] above each of them"),
    ("vm = [3]", "it is a table"),
    ("policy = 1\n" + VM, "c.toml:1: policy = 1: it is a table"),
    ("[policy]\nmode = 'off'\n" + VM, 'c.toml:2: mode = "off": it is enforce or warn'),
    ("[policy]\nprofile = 'x'\n" + VM, "it is standard or strict"),
    ("[policy.rules]\nvfio-postcop = 'off'\n" + VM, "c.toml:2: unknown key 'vfio-postcop' in [policy.rules]: did you"),
    ("[policy.rules]\nunverified = 'off'\n" + VM, 'c.toml:2: unverified = "off": it is enforce or warn'),
    ("[policy]\nextra_types = 'x'\n" + VM, "it is a list of texts"),
    ("[policy]\nallow_failover_primary = 1\n" + VM, "it is true or false"),
    (VM + "socket_mode = 660", 'c.toml:5: socket_mode = 660: permissions are octal digits in quotes, as in "0660"'),
    (VM + "socket_group = 'nosuch'", "there is no group 'nosuch' on this machine; a number is possible, too"),
    (VM + "allow_users = ['nosuch']", "there is no user 'nosuch' on this machine"),
    (VM + "allow_users = []", "an empty list would refuse every client"),
    (VM + "allow_users = ['65534']", "65534 is the id of every user and group without an id here"),
    (VM + "survey_timeout = 0", "it is a number of seconds, more than 0 and at most 3600"),
    (VM + "survey_timeout = true", "it is a number of seconds"),
    (VM + "drift_interval = -1", "more than 0 and at most 86400, or 0: no look"),
    (VM + "max_clients = 1.5", "it is a whole number from 1 to 65536"),
    (VM + "max_request = '4M'", "it is a whole number from 4096 to 10485760"),
    (VM + "role = 'root'", "it is operator or observer"),
    (VM + "qemu_listen = '/x'", 'c.toml:3: qemu = "/q": it excludes qemu_listen'),
    (
        "[[vm]]\nname = 'a'\nqemu_listen = 'q'\nlisten = '/l'",
        'qemu_listen = "q": the path of a socket must be absolute',
    ),
    (VM + "[[vm]]\nname='b'\nqemu_listen='fd:x'\nlisten='fd:x'", 'listen = "fd:x": fd:x is taken already, at '),
    (VM + "[[vm]]\nname='b'\nqemu_listen='/l'\nlisten='/m'", 'qemu_listen = "/l": unix:/l is taken already, at '),
    (VM + "takeover = '/x'", 'c.toml:3: qemu = "/q": it excludes takeover'),
    (f"[[vm]]\nname = 'a'\ntakeover = '/{'x' * 104}'", "with '.qemu' appended it is longer than the 107 bytes"),
    ("[[vm]]\nname = 'a'\ntakeover = 'tcp:h:1'", "it is the path of a unix socket"),
    ("[[vm]]\nname = 'a b'\nqemu = '/q'\nlisten = '/l'", "a name has no spaces and no '/'"),
    ("[[vm]]\nname = ''\nqemu = '/q'\nlisten = '/l'", "it is a text in quotes"),
    ("[[vm]]\nname = 'a'\nqemu = 'q'\nlisten = '/l'", 'c.toml:3: qemu = "q": the path of a socket must be absolute'),
    ("[[vm]]\nname = 'a'\nqemu = 'tcp:x'\nlisten = '/l'", 'c.toml:3: qemu = "tcp:x": a TCP address is written tcp:'),
    (
        "[[vm]]\nname='a'\nqemu='/q'\nlisten='tcp:h:1'\nallow_users=['0']",
        "a TCP client has no user or group",
    ),
    (VM + VM, "c.toml:6: name = \"a\": the name 'a' is taken already, at "),
    (VM + VM.replace('"a"', '"b"'), 'c.toml:7: qemu = "/q": unix:/q is taken already, at '),
    (VM + "[[vm]]\nname='b'\ntakeover='/l'", 'takeover = "/l": unix:/l is taken already, at '),
    ("[[vm]]\nname='b'\nqemu='/x'\nlisten='unix:/a/../x'", "unix:/x is taken already"),
    ("[admin]\nlisten = 'tcp:h:1'\n" + VM, 'c.toml:2: listen = "tcp:h:1": TCP needs token_file'),
    ("[admin]\ntoken_file = '/x'\n" + VM, "it has no effect without listen"),
    ("[admin]\nhosts = ['x']\n" + VM, "it has no effect without listen"),
    ("[log]\nlevel = 'loud'\n" + VM, "it is debug, info, warning or error"),
    ("[log]\naudit = 'x'\n" + VM, "it is an absolute path"),
]


@pytest.mark.parametrize(("text", "says"), WRONG, ids=[says for _, says in WRONG])
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        of(tmp_path, text)
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/c.toml:")
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("data", "says"), [(b"a = 1\nb = '\xff'", "c.toml:2: it is not UTF-8"), (None, "c.toml: No such file or directory")]
)
def test_a_file_that_cannot_be_read(tmp_path: Path, data: bytes | None, says: str) -> None:
    path = tmp_path / "c.toml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_file(str(path))
    assert says in str(caught.value)


ENDS = {"qemu": "q", "listen": "l"}


def words(flags: dict[str, str], **environ: str) -> Config:
    return read_options(OptionValues(flags, environ)).config


def test_flags_describe_one_vm_and_stand_above_the_environment() -> None:
    config = words(
        {**ENDS, "mode": "warn", "rules": "hmp-write=warn, vfio-postcopy=off", "allow_users": "0, root"},
        QMPGUARD_MODE="enforce",
        QMPGUARD_PROFILE="strict",
        QMPGUARD_ALLOW_FAILOVER_PRIMARY="yes",
        QMPGUARD_SURVEY_TIMEOUT="1.5",
        QMPGUARD_LOG_FORMAT="json",
    )
    rules = {"hmp-write": Mode.WARN, "vfio-postcopy": Mode.OFF}
    policy = Policy(Mode.WARN, Profile.STRICT, rules, allow_failover_primary=True)
    access = Access(frozenset({0}))
    vm = VmConfig("vm", UnixAddress("q"), UnixAddress("l"), policy, 1.5, access=access)
    assert config == Config((vm,), log=LogConfig(format=LogFormat.JSON))


BAD = {"rules": "x", "otel": "maybe", "end-with-qemu": "maybe", "allow-failover-primary": "maybe"}
ANYTHING = {"extra-types", "traffic-exclude", "admin-hosts"}  # lists of names: nothing is wrong for them


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.flag not in ANYTHING], ids=lambda o: o.flag)
def test_every_option_has_a_flag_and_a_form_in_the_environment(option: Option) -> None:
    """What is no value of an option is refused by its own name, wherever it was written."""
    flag, bad = option.flag, BAD.get(option.flag, "")
    others = {} if flag == "takeover" else {key: end for key, end in ENDS.items() if key != flag}
    if flag == "qemu-listen":
        del others["qemu"]
    if flag == "admin-token-file":
        others["admin"] = "a"
    with pytest.raises(UsageError, match=f"--{flag} "):
        words({**others, flag.replace("-", "_"): bad})
    with pytest.raises(UsageError, match=f"--{flag} |{option.variable}="):
        words(others, **{option.variable: bad})


def test_qemu_listen_replaces_the_variable_of_qemus_address() -> None:
    """A unit and the image set QMPGUARD_QEMU, and a file of variables cannot remove it."""
    environ = {"QMPGUARD_QEMU": "/other", "QMPGUARD_LISTEN": "/l"}
    (vm,) = read_options(OptionValues({"qemu_listen": "/q"}, environ)).config.vms
    assert vm.qemu == Inbound(UnixAddress("/q"))
    listening = environ | {"QMPGUARD_QEMU_LISTEN": "fd:qemu"}
    (vm,) = read_options(OptionValues({}, listening)).config.vms
    assert vm.qemu == Inbound(NamedAddress("qemu"))
    with pytest.raises(UsageError, match="--qemu /q: it excludes QMPGUARD_QEMU_LISTEN"):
        read_options(OptionValues({"qemu": "/q"}, listening))


@pytest.mark.parametrize(
    ("flags", "environ", "says"),
    [
        ({}, {}, "--qemu ADDR is missing, or QMPGUARD_QEMU in the environment"),
        ({"qemu": "q"}, {}, "--listen ADDR is missing, or QMPGUARD_LISTEN in the environment"),
        (ENDS | {"survey_timeout": "0"}, {}, "--survey-timeout 0: it is a number of seconds, more than 0"),
        (ENDS, {"QMPGUARD_MODE": "x"}, "QMPGUARD_MODE=x in the environment: it is enforce or warn"),
        (ENDS | {"rules": "x=warn"}, {}, "unknown key 'x' in --rules: there are "),
        (ENDS | {"rules": "unverified=off"}, {}, "--rules unverified=off: it is enforce or warn"),
        ({"config": "/c"}, {"QMPGUARD_MODE": "warn"}, "QMPGUARD_MODE: with --config it must be set in the file, /c"),
        ({"qemu": "q"}, {"QMPGUARD_CONFIG": "/c"}, "--qemu: with QMPGUARD_CONFIG it must be set in the file, /c"),
        ({"takeover": "/x", "listen": "/y"}, {}, "--listen /y: it excludes --takeover, which"),
        ({"listen": "/y"}, {"QMPGUARD_TAKEOVER": "/x"}, "--listen /y: it excludes QMPGUARD_TAKEOVER, which"),
        (ENDS | {"qemu_listen": "/x"}, {}, "--qemu q: it excludes --qemu-listen: either"),
        (ENDS | {"admin": "tcp:h:1"}, {}, "--admin tcp:h:1: TCP needs --admin-token-file, a file"),
        (ENDS | {"admin_token_file": "/x"}, {}, "--admin-token-file /x: it has no effect without --admin"),
    ],
)
def test_what_is_wrong_on_the_command_line(flags: dict[str, str], environ: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        words(flags, **environ)
    assert says in str(caught.value)


def test_the_log_and_the_admin_interface_of_a_file_yield_to_flags_and_environment(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(FULL)
    settings = read_options(OptionValues({"config": str(path), "log_level": "error"}, {"QMPGUARD_ADMIN": "/admin"}))
    assert settings.config.log.level is LogLevel.ERROR
    assert settings.config.log.audit == "/a"
    assert settings.config.admin == AdminConfig(UnixAddress("/admin"), "/etc/token", ("guard.example",))
    shown = "\n".join(lines(settings))
    assert 'level = "error"                              # --log-level' in shown
    assert "# environment QMPGUARD_ADMIN" in shown


def test_what_is_shown_is_a_file_that_says_the_same(tmp_path: Path) -> None:
    path, again = tmp_path / "c.toml", tmp_path / "again.toml"
    path.write_text(FULL)
    settings = read_file(str(path))
    again.write_text("\n".join(lines(settings)))
    once_more = read_file(str(again))
    assert [vm.name for vm in once_more.config.vms] == ["web1", "web2", "web3", "web4"]
    assert [vm.access for vm in once_more.config.vms] == [vm.access for vm in settings.config.vms]
    assert f"{path}:10" in again.read_text()


def test_a_check_tells_what_should_be_known(tmp_path: Path) -> None:
    text = VM + "allow_users = ['0']\n[[vm]]\nname = 'b'\nqemu = '/b'\nlisten = '/c'\nsocket_mode = '0666'\n"
    told = list(notes(of(tmp_path, text + "policy.rules.new-monitor = 'warn'\n")))
    assert "every client from another user namespace (id 65534" in told[0]
    assert "b: socket_mode 0666 lets every local user" in told[1]
    assert "b: rule new-monitor is in mode warn" in told[2]
