"""The same lines, given to a real QEMU and to `read`: what QEMU did must be what we read."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.policy.hmp.commands import (
    DeviceAdd,
    DeviceDel,
    Migrate,
    MigrateIncoming,
    MigrateSetCapability,
    MigrateSetParameter,
    ObjectAdd,
    Other,
    QomSet,
    Rejected,
)
from qmpguard.policy.hmp.parser import read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.qemu

QEMU = "qemu-system-x86_64"
STOPPED = ["-S", "-nodefaults", "-display", "none"]


class Vm:
    """A QEMU whose CPUs stand still, on one end of a socket pair."""

    def __init__(self, connection: socket.socket) -> None:
        self._stream = connection.makefile("rw", encoding="utf-8")
        self._stream.readline()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: object) -> Any:
        """Return what QEMU returned; fail the test on an error or at the end of the stream."""
        print(json.dumps({"execute": command, "arguments": arguments}), file=self._stream, flush=True)
        for line in self._stream:
            reply = json.loads(line)
            if "event" not in reply:
                assert "return" in reply, reply
                return reply["return"]
        pytest.fail(f"QEMU closed the connection at {command} {arguments}")

    def hmp(self, line: str) -> str:
        """Return the text that the monitor printed."""
        text = self.execute("human-monitor-command", **{"command-line": line})
        assert isinstance(text, str)
        return text

    def children(self, path: str) -> set[str]:
        """Return the names of the objects below a QOM path."""
        return {entry["name"] for entry in self.execute("qom-list", path=path) if entry["type"].startswith("child<")}


@contextmanager
def started(tmp_path: Path, *arguments: str) -> Iterator[Vm]:
    binary = shutil.which(QEMU)
    if binary is None:
        pytest.fail(f"{QEMU} is not installed; these tests compare with the real one", pytrace=False)
    ours, theirs = socket.socketpair()
    with ours, theirs, (tmp_path / "qemu.log").open("wb") as log:
        ours.settimeout(60)
        monitor = f"socket,id=qmp,fd={theirs.fileno()},server=off"
        process = subprocess.Popen(
            [binary, *STOPPED, "-chardev", monitor, "-mon", "chardev=qmp,mode=control", *arguments],
            cwd=tmp_path,  # the path of a unix socket must be short
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        theirs.close()
        try:
            yield Vm(ours)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm]:
    with started(tmp_path_factory.mktemp("qemu"), "-M", "pc") as machine:
        yield machine


PARSER_SAYS = (
    'Try "help ',
    "unknown command: ",
    "Parameter 'driver' is missing",
    "Parameter 'qom-type' is missing",
    "Invalid parameter '",
    "Expected '=' after parameter",
    " options:",
    "There are no options for",
    "List of user creatable objects",
)

CREATED = ["/machine/peripheral", "/machine/peripheral-anon", "/objects"]


@pytest.mark.parametrize(
    "line",
    [
        "/",
        "/migrate tcp:x",
        "migrate",
        "migrate -",
        "migrate - x",
        "migrate -d",
        "migrate -x nosuch",
        "migrate -d -d nosuch",
        "migrate -dr nosuch",
        "migrate -r -d nosuch",
        "migrate/-d nosuch",
        "migrate nosuch x",
        'migrate "nosuch',
        'migrate "no\\tsuch"',
        'migrate "nosuch\\',
        "migrate_incoming",
        "migrate_incoming a b",
        "migrate_start_postcopy x",
        "migrate_start_postcopy/",
        "migrate_set_capability",
        "migrate_set_capability xbzrle",
        "migrate_set_capability xbzrle On",
        "migrate_set_capability xbzrle 1",
        'migrate_set_capability xbzrle "on"',
        "migrate_set_capability xbzrle on on",
        "migrate_set_capability xbzrle on\u00a0",
        "migrate_set_parameter tls-hostname",
        "device_add",
        'device_add ""',
        "device_add id=a",
        'device_add "e1000',
        'device_add "e1000"x',
        "device_add e1000, id=a",
        "device_add e1000,id=9",
        "device_add e1000,id=",
        "device_add e1000,id=\u00e9",
        "device_add e1000,id=a\u00a0",
        "device_add e1000,help",
        "device_add e1000,?",
        "device_add e1000,help=off",
        "device_add e1000,nohelp",
        "device_add e1000,id=a,help",
        "device_del",
        "device_del a b",
        "object_add",
        "object_add help",
        "object_add ?",
        "object_add rng-builtin,id=a,help",
        "object_add help,qom-type=rng-builtin,id=a",
        "object_add id=a",
        "object_add rng-builtin,,id=a",
        "object_add =rng-builtin,id=a",
        "object_add rng-builtin,id",
        "object_add rng-builtin,id=a,0x=b",
        "object_add rng-builtin, id=a",
        "object_add rng-builtin, id",
        "object_add rng-builtin,id=a,x.=b",
        "object_add rng-builtin,id=a,_x=b",
        "qom-set -x a b c",
        "qom-set -",
        "qom-set a b ",
        "gdbserver none x",
        "savevm a b",
        "info/version",
    ],
)
def test_qemu_too_stops_at_what_we_call_rejected(vm: Vm, line: str) -> None:
    assert isinstance(read(line), Rejected)
    before = [vm.children(path) for path in CREATED]
    said = vm.hmp(line)
    assert any(phrase in said for phrase in PARSER_SAYS), said
    assert [vm.children(path) for path in CREATED] == before


@pytest.mark.parametrize(
    "line",
    [
        "migrate -r nosuch",
        "migrate -r -d",
        "migrate -d-r nosuch",
        "migrate/-d",
        'migrate -d "no such"',
        "migrate_incoming nosuch",
        "migrate_start_postcopy\n",
        'migrate_set_capability "nosuch"on',
        'migrate_set_parameter "nosuch"x',
        "device_del/nosuch",
        'device_del "no such"',
        "qom-set -jnosuch a 1",
        "qom-set -j -j a 1",
        "savevm",
        'savevm "a b"',
        "savevm/a",
        "device_add nosuch",
        "object_add nosuch,id=a",
        "object_add rng-builtin,id=a ",
    ],
)
def test_qemu_too_goes_on_to_execute_what_we_read_as_a_command(vm: Vm, line: str) -> None:
    assert not isinstance(read(line), Rejected | Other)
    said = vm.hmp(line)
    assert said.startswith("Error: "), said
    assert not any(phrase in said for phrase in PARSER_SAYS), said


@pytest.mark.parametrize("line", ["migrate_set_cap xbzrle on", "Migrate nosuch", "migrate\u00a0nosuch", "#migrate x"])
def test_names_that_only_look_like_a_command_are_unknown_to_qemu_too(vm: Vm, line: str) -> None:
    assert isinstance(read(line), Other)
    assert vm.hmp(line).startswith("unknown command: ")


@pytest.mark.parametrize("line", ["", " \t\n\v\f\r"])
def test_qemu_does_nothing_at_a_blank_line(vm: Vm, line: str) -> None:
    assert isinstance(read(line), Rejected)
    assert vm.hmp(line) == ""


@pytest.mark.parametrize(
    "line",
    [
        "migrate_set_capability postcopy-ram on",
        "migrate_set_capability postcopy-ram off",
        'migrate_set_capability "postcopy-ram"on',
        "\n\v\f\r\t migrate_set_capability\npostcopy-ram\voff\f",
        'migrate_set_capability "xbzrle"\ton ',
        "migrate_set_capability auto-converge on",
        "migrate_set_capability auto-converge off",
        "migrate_set_capability 'postcopy-ram' on",
        "migrate_set_capability Postcopy-RAM on",
        'migrate_set_capability post"copy-ram" on',
        "migrate_set_capability/postcopy-ram on",
        r'migrate_set_capability "a\\b\'c\"d" on',
        "migrate_set_capability postcopy-ram,xbzrle on",
        "migrate_set_capability postcopy-ram\u00a0 on",
        "migrate_set_capability " + "x" * 1500 + " on",
        "migrate_set_capability \u00e9" + "x" * 1500 + " on",
    ],
    ids=lambda line: line[:60],
)
def test_qemu_sets_the_capability_that_we_read(vm: Vm, line: str) -> None:
    command = read(line)
    assert isinstance(command, MigrateSetCapability)
    states = capabilities(vm)
    said = vm.hmp(line)
    if command.name in states:
        assert said == ""
        assert capabilities(vm) == states | {command.name: command.state}
    else:
        assert said == f"Error: invalid parameter value: {command.name}\r\n"


def capabilities(vm: Vm) -> dict[str, bool]:
    return {entry["capability"]: entry["state"] for entry in vm.execute("query-migrate-capabilities")}


@pytest.mark.parametrize(
    ("line", "raw"),
    [
        ("migrate_set_parameter tls-hostname abc", "abc"),
        ('migrate_set_parameter "tls-hostname"def', "def"),
        ("migrate_set_parameter tls-hostname \n ghi", "ghi"),
        ('migrate_set_parameter tls-hostname "jkl"', '"jkl"'),
        ('migrate_set_parameter tls-hostname "m n\\"o"', '"m n\\"o"'),
    ],
)
def test_qemu_sets_the_parameter_that_we_read(vm: Vm, line: str, raw: str) -> None:
    command = read(line)
    assert isinstance(command, MigrateSetParameter)
    assert vm.hmp(line) == ""
    value = vm.execute("query-migrate-parameters")[command.name]
    assert value in {command.value, raw}, "from 10.2 on, the quotes are part of a text"


@pytest.mark.parametrize(
    ("line", "raw"),
    [
        ("migrate_set_parameter tls-hostname p q ", "p q "),
        ('migrate_set_parameter tls-hostname "rst', '"rst'),
    ],
)
def test_what_only_newer_versions_accept_as_a_parameter_is_read_for_them(vm: Vm, line: str, raw: str) -> None:
    assert read(line) == MigrateSetParameter("tls-hostname", raw)
    said = vm.hmp(line)
    assert said == "" or PARSER_SAYS[0] in said
    assert (vm.execute("query-migrate-parameters")["tls-hostname"] == raw) == (said == "")


DRIVERS = {"e1000", "rtl8139"}
PAD = "x" * 1100


@pytest.mark.parametrize(
    "line",
    [
        "device_add e1000",
        "device_add e1000,id=d1",
        "device_add driver=e1000,id=d2",
        "device_add id=d3,driver=e1000",
        "device_add nosuch,id=d4,driver=e1000",
        "device_add e1000,id=d5,driver=rtl8139,driver=nosuch",
        "device_add rtl8139,driver=e1000,id=d6",
        "device_add e1000,id=d7,id=d8",
        "device_add id,driver=e1000",
        "device_add e1000,noid",
        "device_add e1000,nomultifunction,id=d9,",
        "device_add e1000,id=d10,driver",
        "device_add e1000,id=d10,nodriver",
        "device_add e1000,,id=d11,x=y",
        'device_add "e1000,id=d12"',
        'device_add"e1000,id=d12"',
        "device_add 'e1000',id=d13",
        "device_add/e1000,id=d14",
        "device_add help,driver=e1000,id=d15",
        "device_add ,id=d16",
        'device_add {"driver":"e1000","id":"d17"}',
        "device_add E1000,id=d18",
        f"device_add nosuch,id=d19,x={PAD},driver=e1000",
        f"device_add nosuch,id=d20,driver={PAD}",
        f"device_add {PAD},driver=e1000",
        "device_add nosuch,driver=a,,b=c",
    ],
    ids=lambda line: line[:50],
)
def test_qemu_plugs_the_driver_and_the_id_that_we_read(vm: Vm, line: str) -> None:
    command = read(line)
    if isinstance(command, Other):
        assert vm.hmp(line).startswith("unknown command: ")
        return
    assert isinstance(command, DeviceAdd)
    driver = command.options["driver"]
    named_socket, nameless = vm.children("/machine/peripheral"), vm.children("/machine/peripheral-anon")
    said = vm.hmp(line)
    if driver not in DRIVERS:
        assert said == f"Error: '{driver}' is not a valid device model name\r\n"
        return
    assert said == ""
    new = vm.children("/machine/peripheral") - named_socket
    anonymous = vm.children("/machine/peripheral-anon") - nameless
    assert new == ({command.options["id"]} if "id" in command.options else set())
    assert len(new) + len(anonymous) == 1
    path = f"/machine/peripheral/{new.pop()}" if new else f"/machine/peripheral-anon/{anonymous.pop()}"
    assert vm.execute("qom-get", path=path, property="type") == driver
    assert vm.execute("qom-get", path=path, property="multifunction") is False


@pytest.mark.parametrize(
    "line",
    [
        "object_add rng-builtin,id=o1",
        "object_add id=o2,qom-type=rng-builtin,",
        "object_add rng-builtin,id=o3,qom-type=rng-random",
        "object_add secret,id=o4,data=x,data= a,,b,,,,c d,,",
        "object_add\n secret,data=x=y,id=o10",
        "object_add rng-builtin,id=o5,id=o6",
        "object_add/rng-builtin,id=o7",
        'object_add "rng-builtin,id=o8"',
    ],
)
def test_qemu_adds_the_object_that_we_read(vm: Vm, line: str) -> None:
    command = read(line)
    assert isinstance(command, ObjectAdd)
    before = vm.children("/objects")
    said = vm.hmp(line)
    if command.options["qom-type"] not in {"rng-builtin", "rng-random", "secret"}:
        assert f"does not accept value '{command.options['qom-type']}'" in said
        return
    assert said == ""
    assert vm.children("/objects") - before == {command.options["id"]}
    path = f"/objects/{command.options['id']}"
    assert vm.execute("qom-get", path=path, property="type") == command.options["qom-type"]
    if "data" in command.options:
        assert vm.execute("qom-get", path=path, property="data") == command.options["data"]


@pytest.mark.parametrize(
    "line",
    [
        "qom-set /machine dumpdtb a",
        "qom-set /machine dumpdtb b c ",
        'qom-set "/machine""dumpdtb""d"',
        "qom-set/machine dumpdtb e",
        'qom-set -j/machine dumpdtb "f"',
        "qom-set /machine dumpdtb " + "g" * 1500,
    ],
    ids=lambda line: line[:40],
)
def test_qemu_sets_the_property_that_we_read(vm: Vm, line: str) -> None:
    command = read(line)
    assert isinstance(command, QomSet)
    assert vm.hmp(line) == ""
    value = vm.execute("qom-get", path=command.path, property=command.property)
    assert value == (json.loads(command.value) if command.json else command.value)


@pytest.mark.parametrize("form", ["migrate -d {}", "migrate {}", "migrate -d{}", 'migrate"{}"', 'migrate -d"{}" '])
def test_qemu_migrates_to_the_uri_that_we_read(tmp_path: Path, form: str) -> None:
    target = tmp_path / "stream"
    line = form.format(f"exec:cat>{target}")
    command = read(line)
    with started(tmp_path, "-M", "none") as machine:
        if isinstance(command, Other):
            assert machine.hmp(line).startswith("unknown command: ")
            return
        assert command == Migrate(f"exec:cat>{target}", resume=False)
        machine.hmp(line)
        until_over(machine)
    assert target.read_bytes()[:4] == b"QEVM"


def test_qemu_migrates_from_the_uri_that_we_read(tmp_path: Path) -> None:
    line = r'migrate_incoming "unix:in \'here\'"'
    assert read(line) == MigrateIncoming("unix:in 'here'")
    with started(tmp_path, "-M", "none", "-incoming", "defer") as machine:
        assert machine.hmp(line) == ""
        assert (tmp_path / "in 'here'").is_socket()


def until_over(vm: Vm) -> None:
    """Ask until the migration has completed; the test's own timeout is the limit."""
    while (status := vm.execute("query-migrate").get("status")) != "completed":
        assert status not in {"failed", "cancelled"}


def test_qemu_refuses_a_start_of_postcopy_only_for_its_state(vm: Vm) -> None:
    assert "postcopy" in vm.hmp("\tmigrate_start_postcopy ")


@pytest.mark.parametrize(
    "token",
    [
        "plain",
        '"with a space"',
        r'"\"quoted\" \\ \' \n\r"',
        '"line\nfeed"',
        "it's",
        'in"side',
        "back\\nslash",
        '" "',
        "x" * 1024,
        '"' + r"\\" * 1100 + '"',
        "\u20ac" * 341,
    ],
    ids=lambda token: token[:20],
)
def test_qemu_reads_the_string_that_we_read(vm: Vm, token: str) -> None:
    command = read(f"device_del {token}")
    assert isinstance(command, DeviceDel)
    found = command.id.replace("\n", "\r\n")
    assert vm.hmp(f"device_del {token}") == f"Error: Device '{found}' not found\r\n"
