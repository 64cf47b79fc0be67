"""Audit and traffic file: which files are written to, and that no opening or closing holds anybody up."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.config import LogConfig
from qmpguard.errors import ConfigError
from qmpguard.logs import linefile
from qmpguard.logs import log_files as module
from qmpguard.logs.linefile import LineFile
from qmpguard.logs.log_files import LogFiles
from qmpguard.policy.facts import Facts
from qmpguard.policy.policy import Policy
from tests.support.descriptors import open_files
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import TIMEOUT, assert_refused, capabilities, connected, eventually
from tests.support.stderr import guard, listening

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qmpguard.proxy.clients.interfaces import TrafficLog
    from qmpguard.record import Entry

POSTCOPY = capabilities(postcopy_ram=True)


def irregular(folder: Path) -> dict[str, tuple[str, str]]:
    """Files that are not written to, and what is said of each."""
    (folder / "target").touch()
    (folder / "link").symlink_to(folder / "target")
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "socket"))
    return {
        "a FIFO that nobody reads": (str(folder / "fifo"), "it is a FIFO; only a regular file can be written"),
        "a device": ("/dev/null", "it is a device; only a regular file can be written"),
        "a terminal": ("/dev/tty", ""),
        "a directory": (str(folder), "Is a directory"),
        "a socket": (str(folder / "socket"), "it is a socket; only a regular file can be written"),
        "a link": (str(folder / "link"), "it is a symbolic link; only a regular file can be written"),
        "standard output": ("/dev/stdout", "it is a symbolic link; only a regular file can be written"),
        "no folder": (str(folder / "no" / "f"), "No such file or directory"),
    }


def test_only_regular_files_are_written_to(tmp_path: Path) -> None:
    before = os.stat("/dev/null").st_mode  # noqa: PTH116 -- the device, not a path
    for path, words in irregular(tmp_path).values():
        with pytest.raises(ConfigError) as caught:
            LineFile(path).wait_opened()
        assert str(caught.value).startswith(f"cannot open {path}: {words}")
    assert os.stat("/dev/null").st_mode == before  # noqa: PTH116


def test_a_fifo_that_is_read_is_refused_too(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDWR)
    with pytest.raises(ConfigError, match="it is a FIFO; only a regular file"):
        LineFile(str(tmp_path / "fifo")).wait_opened()
    os.close(reader)


@contextmanager
def hung(monkeypatch: pytest.MonkeyPatch, name: str, path: Path) -> Iterator[threading.Event]:
    """Have a function of `os` hang for a path or its descriptor, as on a server that is away, until the end."""
    go_on, reached, original = threading.Event(), threading.Event(), getattr(os, name)

    def hangs(first: Any, *rest: Any) -> Any:
        target = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else first  # noqa: PTH115
        if str(target) == str(path):
            reached.set()
            assert go_on.wait(TIMEOUT)
        return original(first, *rest)

    monkeypatch.setattr(f"os.{name}", hangs)
    try:
        yield reached
    finally:
        go_on.set()


class NoVms:
    """All that `LogFiles` wants of the VMs."""

    def __init__(self) -> None:
        self.remarks: list[Callable[[], str]] = []

    def listen(self, listener: Callable[[Entry], None]) -> None:
        self.heard = listener

    def set_request_log(self, traffic: TrafficLog | None) -> None:
        self.traffic = traffic

    def policy(self, vm: str) -> tuple[Policy, frozenset[str]]:
        return Policy(), frozenset()

    def remembered(self, vm: str) -> Facts:
        return Facts()


@pytest.fixture(autouse=True)
def _own_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "log_to_stderr", lambda _: None)  # it would take pytest's place


def times_open(path: Path) -> int:
    return list(open_files().values()).count(str(path))


async def test_an_opening_that_hangs_fails_the_reload_in_time_and_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linefile, "OPEN_TIMEOUT", 0.2)
    path, fleet = tmp_path / "hung", NoVms()
    files = LogFiles(LogConfig(audit=str(tmp_path / "audit")), fleet)
    with hung(monkeypatch, "open", path) as reached:
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.01)
                turns += 1

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(turn())
            with pytest.raises(ConfigError, match=r"cannot open .*/hung: it does not answer within 0.2 s"):
                await files.prepare(LogConfig(traffic=str(path)))
            task.cancel()
        assert reached.is_set()
        assert turns > 1  # a loop that the opening held up would have had none
        assert fleet.traffic is None
    await eventually(lambda: not files._ending or files._ending[0][1].has_ended)
    assert times_open(path) == 0
    assert times_open(tmp_path / "audit") == 1
    files.close()
    assert times_open(tmp_path / "audit") == 0


async def test_files_that_hang_are_bounded_in_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linefile, "OPEN_TIMEOUT", 0.01)
    monkeypatch.setattr(module, "MAX_ENDING", 3)
    files = LogFiles(LogConfig(), NoVms())
    path = tmp_path / "hung"
    with hung(monkeypatch, "open", path):
        words = []
        for _ in range(6):
            with pytest.raises(ConfigError) as caught:
                await files.prepare(LogConfig(audit=str(path)))
            words.append(str(caught.value))
        assert len([thread for thread in threading.enumerate() if thread.name == f"lines of {path}"]) == 3
    assert words[-1] == f"3 earlier log files hang, for example {path}"
    await eventually(lambda: all(file.has_ended for _, file in files._ending))
    await files.prepare(LogConfig(audit=str(tmp_path / "good")))
    files.close()


async def test_of_two_new_files_one_that_is_unusable_closes_the_other(tmp_path: Path) -> None:
    fleet = NoVms()
    files = LogFiles(LogConfig(), fleet)
    with pytest.raises(ConfigError, match="No such file or directory"):
        await files.prepare(LogConfig(audit=str(tmp_path / "a"), traffic=str(tmp_path / "no" / "t")))
    await eventually(lambda: times_open(tmp_path / "a") == 0)
    assert files.lost == {}
    assert fleet.traffic is None


async def test_leaving_a_file_that_hangs_does_not_wait_and_its_lines_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(linefile, "FLUSH_TIMEOUT", 0.1)
    monkeypatch.setattr(module, "FLUSH_TIMEOUT", 0.1)
    monkeypatch.setattr(module, "NOTICE_TIMEOUT", 0.1)
    old = tmp_path / "old"
    files = LogFiles(LogConfig(audit=str(old)), NoVms())
    audit = files._now.audit
    assert audit is not None
    with hung(monkeypatch, "write", old) as reached:
        for number in range(3):
            audit.put(f"{number}".encode())
        assert await asyncio.to_thread(reached.wait, TIMEOUT)
        files.apply(await files.prepare(LogConfig(audit=str(tmp_path / "new"))))
        files.close()
        assert files.lost == {"audit": 3}
    assert f"{old}: lines lost at the end: 3" in caplog.text


async def test_what_closed_files_have_lost_stays_counted(tmp_path: Path) -> None:
    files = LogFiles(LogConfig(audit=str(tmp_path / "0")), NoVms())
    for number in range(1, 5):
        assert files._now.audit is not None
        files._now.audit.count()
        files.apply(await files.prepare(LogConfig(audit=str(tmp_path / str(number)))))
        assert files.lost == {"audit": number}
    files.close()
    assert files.lost == {"audit": 4}
    assert [(json.loads((tmp_path / str(number)).read_text())["lines"]) for number in range(4)] == [1] * 4


CONFIG = """
[policy]
mode = "{mode}"
[log]
{log}
[[vm]]
name = "web"
qemu = "{folder}/q"
listen = "{folder}/g"
"""


@pytest.mark.parametrize("setting", ["audit", "traffic"])
async def test_an_unusable_new_file_fails_the_reload_as_a_whole(tmp_path: Path, setting: str) -> None:
    config, log = tmp_path / "c.toml", tmp_path / "log"

    def write(mode: str, path: str) -> None:
        config.write_text(CONFIG.format(mode=mode, log=f'{setting} = "{path}"', folder=tmp_path))

    write("enforce", str(tmp_path / "old"))
    kinds = irregular(tmp_path)
    del kinds["a terminal"]
    async with FakeQemu(tmp_path / "q") as qemu:
        qemu.devices["gpu0"] = "vfio-pci"
        with log.open("wb") as file:
            async with guard("--config", str(config), stderr=file) as process:
                await listening(tmp_path / "g")
                async with connected(tmp_path / "g") as client:
                    for number, (path, words) in enumerate(kinds.values(), 1):
                        write("warn", path)
                        process.send_signal(signal.SIGHUP)
                        await eventually(lambda n=number: log.read_text().count("reload failed") == n)  # type: ignore[misc]
                        assert f"cannot open {path}: {words}" in log.read_text()
                        assert_refused(await client.ask("migrate-set-capabilities", POSTCOPY), "vfio-postcopy")
                    write("warn", str(tmp_path / "new"))
                    process.send_signal(signal.SIGHUP)
                    await eventually(lambda: "reloaded: " in log.read_text())
                    assert await client.ask("migrate-set-capabilities", POSTCOPY) == {"return": {}}
    refused, warned = [(tmp_path / name).read_text().splitlines() for name in ("old", "new")]
    assert len(refused) >= len(kinds)
    assert len(warned) == 1


@pytest.mark.parametrize("setting", ["--audit", "--traffic"])
@pytest.mark.parametrize("kind", ["a FIFO that nobody reads", "a device", "no folder"])
async def test_a_guard_does_not_start_with_a_file_that_it_cannot_use(tmp_path: Path, setting: str, kind: str) -> None:
    path, words = irregular(tmp_path)[kind]
    with (tmp_path / "log").open("wb") as file:
        places = "--qemu", str(tmp_path / "q"), "--listen", str(tmp_path / "g")
        async with guard(*places, setting, path, stderr=file, exit_code=78) as process:
            async with asyncio.timeout(TIMEOUT):
                await process.wait()
    assert (tmp_path / "log").read_text() == f"qmpguard: cannot open {path}: {words}\n"


async def test_the_reopening_of_what_has_become_a_fifo_goes_on_in_the_old_file(tmp_path: Path) -> None:
    audit, old, log = tmp_path / "audit", tmp_path / "audit.1", tmp_path / "log"
    async with FakeQemu(tmp_path / "q") as qemu:
        qemu.devices["gpu0"] = "vfio-pci"
        places = "--qemu", str(qemu.path), "--listen", str(tmp_path / "g"), "--audit", str(audit)
        with log.open("wb") as file:
            async with guard(*places, stderr=file) as process:
                await listening(tmp_path / "g")
                audit.rename(old)
                os.mkfifo(audit)
                process.send_signal(signal.SIGUSR1)
                await eventually(
                    lambda: "cannot be reopened, the old file stays in use: it is a FIFO" in log.read_text()
                )
                async with connected(tmp_path / "g") as client:
                    assert_refused(await client.ask("migrate-set-capabilities", POSTCOPY), "vfio-postcopy")
    assert len(old.read_text().splitlines()) == 1


async def test_requests_of_megabytes_do_not_fill_the_memory_while_the_disk_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "traffic"
    file = LineFile(str(path))
    file.wait_opened()
    with hung(monkeypatch, "write", path) as reached:
        file.put(b"first")
        assert await asyncio.to_thread(reached.wait, TIMEOUT)
        for _ in range(100):
            file.put(bytes(3 << 20))
        assert file._queue._bytes <= linefile.MAX_WAITING_BYTES
        assert file.lost == 100 - linefile.MAX_WAITING_BYTES // (3 << 20)
    file.close()
    assert path.read_bytes().endswith(b'"lines": %d}\n' % file.lost)
