"""`qmpguard replay`: exit 1 where a verdict differs, and never a traceback."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from qmpguard.cli import main
from tests.support.replay import TRANSCRIPTS

if TYPE_CHECKING:
    from pathlib import Path

NAME = str(TRANSCRIPTS / "11.1.2-vfio-user-postcopy-running.jsonl")


def test_all_transcripts_are_judged_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", *map(str, sorted(TRANSCRIPTS.glob("*.jsonl")))]) == 0
    assert capsys.readouterr().out == "122 commands judged again, 0 not; verdicts that differ: 0\n"


def test_another_policy_differs_and_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--rules", "vfio-postcopy=warn", NAME]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == (
        f"{NAME}:7: vm=src migrate-set-capabilities: then refused by vfio-postcopy, now warned by (vfio-postcopy)"
    )
    assert said[-1] == "3 commands judged again, 0 not; verdicts that differ: 3"


def test_every_verdict_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--all", NAME]) == 0
    assert f"{NAME}:10: vm=src migrate-start-postcopy: refused by vfio-postcopy" in capsys.readouterr().out


def test_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--json", "--mode", "warn", NAME]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["differences"] == 3
    first = said["commands"][0]
    assert (first["line"], first["then"]["verdict"], first["now"]["verdict"]) == (7, "refused", "warned")
    assert first["now"]["rules"] == {"vfio-postcopy": "warn"}


def test_a_recording_without_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f").write_text('{"recording": 1}\n')
    assert main(["replay", str(tmp_path / "f")]) == 0
    assert capsys.readouterr().out == "0 commands judged again, 0 not; no guard judged them then\n"


@pytest.mark.parametrize(
    ("content", "words", "reason"),
    [
        (None, (), "No such file or directory"),
        (b"\xff\xfe", (), "this is no text"),
        (b"{}\n", (), "this is no line of a recording"),
        (b'{"recording": 99}\n', (), "its format is 99, and this version reads up to 1"),
        (b'{"recording": 1}\n', ("--only", "a"), "--only NAME is the VM that --against ADDR plays"),
    ],
)
def test_what_is_no_recording_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, words: tuple[str, ...], reason: str
) -> None:
    if content is not None:
        (tmp_path / "f").write_bytes(content)
    assert main(["replay", str(tmp_path / "f"), *words]) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
