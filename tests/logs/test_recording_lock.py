"""A recording has one writer, and the files whose lines stand for themselves may have several."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from qmpguard.config import LogConfig
from qmpguard.errors import ConfigError
from qmpguard.logs import linefile
from qmpguard.logs.linefile import LineFile
from qmpguard.logs.log_files import LogFiles
from tests.logs.test_files import NoVms, _own_log, times_open  # noqa: F401 -- a fixture
from tests.support.guarding import eventually

if TYPE_CHECKING:
    from pathlib import Path


def test_a_recording_of_another_guard_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linefile, "LOCK_TIMEOUT", 0.0)
    config = LogConfig(record=str(tmp_path / "r"))
    first = LogFiles(config, NoVms())
    with pytest.raises(ConfigError, match=r"cannot open .*/r: another guard writes it; each guard needs a recording"):
        LogFiles(config, NoVms())
    assert times_open(tmp_path / "r") == 1
    first.close()
    LogFiles(config, NoVms()).close()


def test_a_recording_that_was_just_closed_is_waited_for(tmp_path: Path) -> None:
    first = LineFile(str(tmp_path / "r"), alone=True)
    first.wait_opened()
    second = LineFile(str(tmp_path / "r"), alone=True)
    first.close()
    second.wait_opened()
    second.close()


@pytest.mark.parametrize("rotated", [False, True])
async def test_a_recording_is_reopened_whether_it_was_rotated_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, rotated: bool
) -> None:
    """SIGUSR1 reopens all files, and not all of them are rotated at the same time."""
    monkeypatch.setattr(linefile, "LOCK_TIMEOUT", 0.0)
    caplog.set_level("INFO")
    path = tmp_path / "r"
    file = LineFile(str(path), alone=True)
    file.wait_opened()
    if rotated:
        path.rename(tmp_path / "r.1")
    file.reopen()
    file.put(b"x")
    await eventually(lambda: path.exists() and path.read_text() == "x\n")
    assert [record.getMessage() for record in caplog.records] == [f"{path} reopened"]
    second = LineFile(str(path), alone=True)
    with pytest.raises(ConfigError, match="another guard writes it"):
        second.wait_opened()
    file.close()


def test_where_files_cannot_be_locked_a_recording_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(file: int, how: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "no locks here")

    monkeypatch.setattr("fcntl.flock", none)
    file = LineFile(str(tmp_path / "r"), alone=True)
    file.wait_opened()
    file.put(b"x")
    file.close()
    assert (tmp_path / "r").read_text() == "x\n"


def test_audit_and_traffic_may_have_several_writers(tmp_path: Path) -> None:
    config = LogConfig(audit=str(tmp_path / "a"), traffic=str(tmp_path / "t"))
    first, second = LogFiles(config, NoVms()), LogFiles(config, NoVms())
    first.close()
    second.close()
