"""What the traffic file does not say, whatever the form in which a client says it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpguard.demo.lab import system_qemu, vfio_qemu
from qmpguard.demo.qemu import Qemu
from qmpguard.logs.hmp_names import HMP_NAMES
from qmpguard.logs.secret import (
    HIDDEN,
    LEFT_OUT,
    MAX_REQUEST,
    NAMES,
    PARTS,
    TYPED,
    is_secret,
    redacted,
    redacted_reply,
    without_secrets,
)
from qmpguard.wire.json import Number, Value
from tests.support.guarding import connected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECRET = "hunter2"
QEMUS = [pytest.param(system_qemu, id="system"), pytest.param(vfio_qemu, id="11.1", marks=pytest.mark.qemu11)]

#: what a name looks like that may be a secret's: on purpose wider than the list of the code, and written apart from it
SUSPECT = re.compile(
    "pass|secret|token|auth|cookie|cred|key|data|user|cert|pin|sign|private|hash|session|args|exec|iv$"
)
#: members of QEMU 7.2 to 11.1 that look so and are none: names of files, of objects and of users, sizes, switches
NONE = frozenset(
    {
        *("cert-subject", "command-line", "data-file", "data-file-raw", "data-type", "dh-cert-file", "discard-data"),
        *(
            "hash",
            "hash-alg",
            "host-data",
            "host-key-check",
            "iv",
            "ivgen-hash-alg",
            "kernel-hashes",
            "keyid",
            "keyslot",
        ),
        *("pass-discard-other", "pass-discard-request", "pass-discard-snapshot", "pincounter", "block-bitmap-mapping"),
        *("proxy-username", "rxsession", "session-file", "signal", "tls-certs", "tls-creds", "txsession", "user"),
        *("username", "vhost-user", "keyslot"),
    }
)  # the command line of HMP has tests of its own below


def members(types: dict[str, Any], name: str, seen: set[str]) -> Iterator[str]:
    """The names of all members that arguments of a type can have, at any depth."""
    if name in seen:
        return
    seen.add(name)
    entity = types[name]
    kind = entity["meta-type"]
    if kind == "array":
        yield from members(types, entity["element-type"], seen)
    for member in entity.get("members", []) if kind in ("object", "alternate") else []:
        if kind == "object":
            yield member["name"]
        yield from members(types, member["type"], seen)
    for variant in entity.get("variants", []):
        yield from members(types, variant["type"], seen)


@pytest.mark.parametrize("binary", QEMUS)
async def test_every_member_in_qemus_schema_that_looks_like_a_secret_is_hidden_in_every_command(
    tmp_path: Path, binary: Callable[[], Path]
) -> None:
    async with Qemu(binary(), tmp_path) as qemu, connected(qemu.monitors[0]) as qmp:
        entities = (await qmp.ask("query-qmp-schema"))["return"]
    types = {entity["name"]: entity for entity in entities}
    found = {
        (entity["name"], member)
        for entity in entities
        if entity["meta-type"] == "command"
        for member in members(types, entity["arg-type"], set())
        if SUSPECT.search(member)
    }
    assert len(found) > 50
    for command, member in sorted(found - {(command, member) for command, member in found if member in NONE}):
        forms: list[dict[str, Any]] = [{member: SECRET}, {"x": {member: SECRET}}, {"x": [1, {member: [SECRET]}]}]
        for arguments in forms:
            assert SECRET not in json.dumps(redacted(command, arguments)), (command, arguments)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("object-add", {"qom-type": "secret", "id": "a", "data": SECRET}),
        ("object-add", {"qom-type": "secret", "id": "a", "props": {"data": SECRET}}),
        ("set_password", {"protocol": "vnc", "password": SECRET}),
        ("expire_password", {"protocol": "vnc", "time": SECRET}),
        ("change-vnc-password", {"password": SECRET}),
        ("blockdev-add", {"driver": "x", "deep": [{"proxy-password": SECRET}, {"auth-token": {"x": SECRET}}]}),
        ("blockdev-add", {"driver": "https", "url": f"https://user:{SECRET}@host/x", "cookie": f"session={SECRET}"}),
        ("blockdev-add", {"driver": "raw", "file": {"driver": "https", "cookie": f"session={SECRET}"}}),
        ("blockdev-add", {"driver": "raw", "file": f'json:{{"driver": "https", "url": "x", "cookie": "{SECRET}"}}'}),
        ("blockdev-add", {"driver": "raw", "file": f'nbd:x,file=json: {{"a": "{SECRET}"}}'}),
        ("blockdev-add", {"driver": "raw", "file.PassWord": SECRET}),
        ("drive-mirror", {"device": "d", "target": f"rbd:pool/img:id=admin:key={SECRET}==:mon_host=h"}),
        ("drive-mirror", {"device": "d", "target": f"iscsi://user%{SECRET}@host/target/1"}),
        ("drive-mirror", {"device": "d", "target": f"ssh://user:p@ss/{SECRET}@host/path"}),
        ("drive-mirror", {"device": "d", "target": f"https://host/x?X-Amz-Signature={SECRET}"}),
        ("drive-mirror", {"device": "d", "target": f"https://host/x?sig={SECRET}"}),
        ("drive-mirror", {"device": "d", "target": f"driver=https,file.password={SECRET},url=x"}),
        ("drive-mirror", {"device": "d", "target": f"driver=https,auth_token = {SECRET}"}),
        ("migrate", {"uri": f"exec:curl -H 'Authorization: Bearer {SECRET}' https://host"}),
        ("migrate", {"uri": f" EXEC:sshpass -p {SECRET} ssh host"}),
        ("migrate", {"channels": [{"addr": {"transport": "exec", "args": ["sshpass", "-p", SECRET]}}]}),
        ("migrate-set-parameters", {"cpr-exec-command": ["sshpass", "-p", SECRET]}),
        ("qom-set", {"path": "/objects/s", "property": "data", "value": SECRET}),
        ("qom-set", {"path": "/objects/s", "property": "password", "value": SECRET}),
        ("qom-set", {"path": "/objects/s", "property": "rawdata", "value": [SECRET]}),
        ("qom-set", {"property": "Secret", "value": {"x": SECRET}}),
        ("blockdev-change-medium", {"id": "cd", "filename": f"https://user:{SECRET}@host/x.iso"}),
        ("send-key", {"keys": [SECRET]}),
        ("device_add", {"driver": "ccid-card-emulated", "pin": SECRET}),
        ("human-monitor-command", {"command-line": 5, "x": SECRET}),
        ("human-monitor-command", {"command-line": f"info {SECRET} password={SECRET}", "x": SECRET}),
        ("x-unknown", {"x" * 500: SECRET}),
    ],
)
def test_secrets_are_hidden_wherever_they_stand(command: str, arguments: dict[str, Any]) -> None:
    assert SECRET not in json.dumps(redacted(command, arguments)).replace(f"info {SECRET}", "")


#: what QEMU takes for white space (isspace), and the slash: a command's name ends there
ENDS = st.sampled_from(" \t\n\v\f\r/")
LINES = st.sampled_from(
    ["set_password", "object_add", "drive_add", "change", "qom-set", "migrate", "sendkey", "?", "q"]
)


@given(st.text(" \t\n\v\f\r", max_size=3), LINES, ENDS, st.text(" \t\n\v\f\r/", max_size=3))
def test_of_a_line_of_hmp_only_the_name_is_kept(before: str, name: str, end: str, more: str) -> None:
    line = redacted("human-monitor-command", {"command-line": f"{before}{name}{end}{more}{SECRET}"})
    assert line == {"command-line": f"{name} {HIDDEN}"}


@given(st.text(" \t\n", max_size=3), st.sampled_from([SECRET, "infox", f"/{SECRET}", "Info", ""]), ENDS)
def test_of_a_line_that_is_no_command_nothing_is_kept(before: str, name: str, end: str) -> None:
    assert redacted("human-monitor-command", {"command-line": f"{before}{name}{end}more"}) == {"command-line": HIDDEN}


@pytest.mark.parametrize("binary", QEMUS)
async def test_every_command_of_hmp_is_known_by_its_name(tmp_path: Path, binary: Callable[[], Path]) -> None:
    async with Qemu(binary(), tmp_path, machine="pc") as qemu, connected(qemu.monitors[0]) as qmp:
        told = (await qmp.ask("human-monitor-command", {"command-line": "help"}))["return"]
    words = {name for line in told.splitlines() for name in line.partition(" ")[0].split("|")}
    names = {name for name in words if re.fullmatch(r"[a-z?][\w?-]*", name)}
    assert len(names) > 90
    assert names - HMP_NAMES == set()


@given(st.sampled_from(sorted({*PARTS, *NAMES})), st.sampled_from(["", "x-", "file.", "my_"]), st.booleans())
def test_a_secret_name_hides_a_member_an_option_and_a_property(name: str, before: str, upper: bool) -> None:
    whole = (before if name in PARTS or before == "file." else "") + name
    whole = whole.upper().replace("-", "_") if upper else whole
    assert is_secret(whole)
    for arguments in (
        {whole: SECRET},
        {"property": whole, "value": SECRET},
        {"file": f"driver=x,{whole}={SECRET},more=1"},
        {"file": f"driver:x:{whole} = {SECRET}"},
    ):
        assert SECRET not in json.dumps(redacted("x", arguments)), arguments


def test_what_is_no_secret_stays() -> None:
    plain: list[tuple[str, dict[str, Any]]] = [
        ("migrate", {"uri": "tcp:a:1", "x": [1, {"y": None}]}),
        ("human-monitor-command", {"command-line": "info qtree"}),
        ("human-monitor-command", {"command-line": "stop"}),
        ("device_add", {"driver": "vfio-pci", "host": "0000:65:00.0", "id": "gpu0", "enable-migration": True}),
        ("blockdev-add", {"driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": "/a/b@c.img"}}),
        ("blockdev-add", {"driver": "nbd", "server": {"type": "unix", "path": "/run/nbd"}, "export": "x"}),
        ("chardev-add", {"id": "c", "backend": {"type": "socket", "data": {"server": True}}}),
        ("qom-set", {"path": "/machine", "property": "realized", "value": True}),
        ("netdev_add", {"type": "tap", "id": "n", "fd": "f"}),
    ]
    for command, arguments in plain:
        assert redacted(command, arguments) == arguments


def test_commands_that_are_typed_are_hidden_as_a_whole() -> None:
    for command in TYPED:
        assert redacted(command, {"a": SECRET, "b": [{"c": SECRET}]}) == {"a": HIDDEN, "b": HIDDEN}


def test_what_is_deep_long_or_many_is_cut() -> None:
    deep: Any = SECRET
    for _ in range(1000):
        deep = [deep]
    assert HIDDEN in str(redacted("x", {"a": deep}))
    many: list[dict[str, Any]] = [
        {"a": "y" * 4_000_000},
        {"y" * 4_000_000: 1},
        {"a": [1] * 1_000_000},
        {str(number): "y" * 4000 for number in range(1000)},
        {"a": Number("1" * 1_000_000)},
    ]
    for arguments in many:
        assert len(str(redacted("x", arguments))) < 5 * MAX_REQUEST
    assert LEFT_OUT in str(redacted("x", {"a": [1] * 1_000_000}))
    assert len(str(redacted("human-monitor-command", {"command-line": "y" * 4_000_000}))) < 1000


@pytest.mark.parametrize("command", ["set_password", "change-vnc-password"])
def test_an_error_does_not_repeat_what_was_typed(command: str) -> None:
    error: dict[str, Value] = {"class": "GenericError", "desc": "Parameter 'connected' does not accept value 'S3CRET'"}
    hidden = {"error": {"class": "GenericError", "desc": HIDDEN}}
    assert redacted_reply(command, {"connected": "S3CRET"}, {"error": error}) == hidden


@pytest.mark.parametrize(
    "line", ["set_password vnc keep S3CRET", "change vnc password S3CRET", "object_add secret,S3CRET"]
)
def test_an_error_of_hmp_does_not_repeat_what_was_typed(line: str) -> None:
    reply = redacted_reply("human-monitor-command", {"command-line": line}, {"return": "Error: bad 'S3CRET'\r\n"})
    assert reply == {"return": f"Error: {HIDDEN}\r\n"}
    assert redacted_reply("human-monitor-command", {"command-line": line}, {"return": ""}) == {"return": ""}


def test_the_command_of_a_guestfwd_is_hidden() -> None:
    assert without_secrets("tcp:10.0.2.100:80-cmd:prog S3CRET") == f"tcp:10.0.2.100:80-cmd:{HIDDEN}"
