"""What QEMU would refuse itself is refused in its own words, class and form: tools tell features by it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.demo.lab import system_qemu
from qmpguard.demo.qemu import Qemu
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import TIMEOUT, connected, guarding
from tests.support.qemus import on_each

if TYPE_CHECKING:
    from pathlib import Path

    from qmpguard.testing.machines import GuardedQemu

CAPABILITIES = {"capabilities": [{"capability": "postcopy-ram", "state": True}]}
JUDGED: dict[str, tuple[str, dict[str, Any]]] = {
    "migrate": ("migrate", {"uri": "exec:cat"}),
    "migrate-incoming": ("migrate-incoming", {"uri": "tcp:127.0.0.1:1"}),
    "migrate-start-postcopy": ("migrate-start-postcopy", {}),
    "capabilities": ("migrate-set-capabilities", CAPABILITIES),
    "device_add": ("device_add", {"driver": "vfio-pci", "id": "gpu0", "host": "0000:65:00.0"}),
    "HMP": ("human-monitor-command", {"command-line": "migrate exec:cat"}),
    "HMP capability": ("human-monitor-command", {"command-line": "migrate_set_capability postcopy-ram on"}),
}


@on_each
@pytest.mark.qemu_options("-preconfig", machine="none", monitors=2)
@pytest.mark.parametrize(("command", "arguments"), JUDGED.values(), ids=JUDGED)
async def test_before_there_is_a_machine(guarded_qemu: GuardedQemu, command: str, arguments: dict[str, Any]) -> None:
    async with connected(guarded_qemu.path) as guarded, connected(guarded_qemu.qemu.others[0]) as direct:
        told = await direct.ask(command, arguments, id=1)
        assert "error" in told
        assert await guarded.ask(command, arguments, id=1) == told


JUNK = {
    "no text": b"\0\xff\x80" * 100,
    "half a request": b'{"execute": ',
    "a text without an end": b'"' + b"x" * 100_000,
    "too deep": b"[" * 2000,
    "brackets": b"}{][",
    "newlines": b"\n" * 100,
    "no request": b'[1] "a" {"execute": 5, "id": 6} {"id": 7}',
}


@pytest.mark.qemu
@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
async def test_junk_is_answered_in_the_same_bytes(tmp_path: Path, junk: bytes) -> None:
    """The words are those of QEMU before 11.1: docs/conformance.md."""
    async with Qemu(system_qemu(), tmp_path, monitors=2) as qemu, guarding(qemu.monitors[0]):
        answers = []
        for path in (tmp_path / "guard.sock", qemu.monitors[1]):
            async with connected(path) as qmp, asyncio.timeout(TIMEOUT):
                qmp.raw(junk)
                qmp.writer.write_eof()
                answers.append(await qmp.reader.read())
        assert answers[0] == answers[1]


@on_each
@pytest.mark.qemu_options(monitors=2)
@pytest.mark.guarded("qemu", profile="strict")
def test_in_strict_a_command_that_qemu_does_not_have(guarded_qemu: GuardedQemu) -> None:
    direct = guarded_qemu.qemu.connect(guarded_qemu.qemu.others[0])
    for command in ("no-such-command", "__com.example_no", ""):
        told, error = direct.execute(command)["error"], guarded_qemu.execute(command)["error"]
        assert error["class"] == told["class"] == "CommandNotFound"
        assert error["desc"].startswith(told["desc"])


async def test_a_qemu_without_migration_as_its_storage_daemon(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(tmp_path / "guard.sock") as client,
    ):
        qemu.schema = [entry for entry in qemu.schema if entry["name"] != "migrate"]
        for command in ("query-migrate-capabilities", "query-migrate-parameters", "query-migrate", "qom-list"):
            qemu.answers[command] = lambda request: {
                "class": "CommandNotFound",
                "desc": f"The command {request['execute']} has not been found",
            }
        error = (await client.ask("migrate", {"uri": "exec:cat"}))["error"]
        assert error == {"class": "CommandNotFound", "desc": "The command migrate has not been found"}
        assert guard.vm.counts.refused == 1
        assert "migrate" not in qemu.commands()


async def test_a_query_that_is_hidden_or_gone_is_no_sign_that_the_command_is(tmp_path: Path) -> None:
    """A newer QEMU may lack the query, or refuse it by policy, and execute the command."""
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as client:
        for text in (
            "The command query-migrate-capabilities has not been found",
            "Deprecated command query-migrate-capabilities disabled by policy",
            "The command query-status is permitted only after machine initialization has completed",
        ):
            refusal = {"class": "CommandNotFound", "desc": text}
            qemu.answers["query-migrate-capabilities"] = partial(_told, refusal)
            error = (await client.ask("migrate", {"uri": "exec:cat"}))["error"]
            assert error["class"] == "GenericError"
            assert "could not be verified" in error["desc"]
        assert "migrate" not in qemu.commands()


def _told(refusal: dict[str, str], _: dict[str, Any]) -> dict[str, str]:
    return refusal
