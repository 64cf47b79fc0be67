"""Conversations recorded from real QEMUs with real VFIO devices, replayed: what the guard says to each command.

What is refused here was accepted by QEMU 8.1.4 and lost the guest or the snapshot; 10.0.13 and 11.1.2 refuse it
themselves for `vfio-pci`, and for `vfio-user-pci` not at all. `tests/transcripts/README.md` says how they were made.
"""

from __future__ import annotations

import json

import pytest

from qmpguard.policy.mode import Mode
from qmpguard.policy.policy import Policy
from qmpguard.policy.readers import READERS, unknown_arguments
from qmpguard.policy.schema import Schema
from qmpguard.recording.judge import reply_of
from qmpguard.recording.lines import Exchange
from tests.support.replay import TRANSCRIPTS, judged

ALL = sorted(path.stem for path in TRANSCRIPTS.glob("*.jsonl"))
POSTCOPY, SNAPSHOT, LOST = "vfio-postcopy", "vfio-background-snapshot", "(vfio-state-lost)"

#: for each device and scenario, in all versions, every command with findings and its rules; in brackets: a warning
SAID: dict[str, list[tuple[str, list[str]]]] = {
    "none-postcopy": [],
    "A_noid-queries": [],
    "A_on-queries": [],
    "A_on-plain": [],
    "A_on-postcopy": [
        ("migrate-set-capabilities", [POSTCOPY]),
        ("migrate", [POSTCOPY]),
        ("migrate-start-postcopy", [POSTCOPY]),
    ],
    "A_on-bgsnap": [("migrate-set-capabilities", [SNAPSHOT]), ("migrate", [SNAPSHOT])],
    "A_on-hmp-postcopy": [
        ("migrate_set_capability postcopy-ram on", [POSTCOPY]),
        ('migrate -d "exec:cat >/dev/null"', [POSTCOPY]),
        ("migrate-start-postcopy", [POSTCOPY]),
    ],
    "A_on-pair-plain": [],
    "A_on-pair-postcopy-started": [
        ("migrate-set-capabilities", [POSTCOPY]),
        ("dst migrate-set-capabilities", [POSTCOPY]),
        ("dst migrate-incoming", [POSTCOPY]),
        ("migrate", [POSTCOPY]),
        ("migrate-start-postcopy", [POSTCOPY]),
    ],
    "B_auto-queries": [],
    "misc-hotplug": [("qom-set", ["vfio-property"])],
    "misc-only-migratable": [],
    "misc-savevm-A-postcopy": [("migrate-set-capabilities", [POSTCOPY])],  # savevm and snapshot-save pass
    "vfio-user-queries": [],
    "vfio-user-plain": [("migrate", [LOST])],
    "vfio-user-plain-running": [("migrate", [LOST])],
    "vfio-user-pair-plain": [("migrate", [LOST])],
    "vfio-user-postcopy": [
        ("migrate-set-capabilities", [POSTCOPY]),
        ("migrate", [POSTCOPY, LOST]),
        ("migrate-start-postcopy", [POSTCOPY]),
    ],
    "vfio-user-postcopy-running": [
        ("migrate-set-capabilities", [POSTCOPY]),
        ("migrate", [POSTCOPY, LOST]),
        ("migrate-start-postcopy", [POSTCOPY]),
    ],
    "vfio-user-pair-postcopy": [
        ("migrate-set-capabilities", [POSTCOPY]),
        ("migrate", [POSTCOPY, LOST]),
        ("migrate-start-postcopy", [POSTCOPY]),
    ],
    "vfio-user-hmp-postcopy-running": [
        ("migrate_set_capability postcopy-ram on", [POSTCOPY]),
        ('migrate -d "exec:cat >/dev/null"', [POSTCOPY, LOST]),
    ],
    "vfio-user-bgsnap": [
        ("migrate-set-capabilities", [SNAPSHOT]),
        ("migrate", [SNAPSHOT, "snapshot-runstate", LOST]),
    ],
    "vfio-user-bgsnap-running": [("migrate-set-capabilities", [SNAPSHOT]), ("migrate", [SNAPSHOT, LOST])],
    "vfio-user-bgsnap-novfio-prelaunch": [("migrate", ["snapshot-runstate"])],  # it aborted QEMU
    "vfio-user-hotplug": [],
    "vfio-user-hotplug-during-migration": [],
    "vfio-user-only-migratable": [],
}


def called(line: Exchange) -> str:
    command = str((line.arguments or {}).get("command-line", line.command))
    return command if line.vm == "src" else f"{line.vm} {command}"


@pytest.mark.parametrize("name", ALL)
def test_what_the_guard_says_to_a_recorded_conversation(name: str) -> None:
    said = [
        (called(one.line), [f.rule if f.mode is Mode.ENFORCE else f"({f.rule})" for f in one.verdict.findings])
        for one in judged(name, Policy())
        if one.verdict is not None and one.verdict.findings
    ]
    assert said == SAID[name.partition("-")[2]]


@pytest.mark.parametrize("name", ALL)
def test_the_guard_says_what_it_said_when_the_recording_was_last_judged(name: str) -> None:
    assert [(one.number, one.reason) for one in judged(name, Policy()) if one.differs or one.reason] == []


def refusals() -> list[tuple[str, str]]:
    """QEMU's own words where it refused because of a VFIO device, and the guard's."""
    found = []
    for name in ALL:
        for one in judged(name, Policy()):
            words = reply_of(one.line).text
            if "VFIO migration is not supported with" in words:
                assert one.verdict is not None
                assert one.verdict.refusal is not None
                found.append((words, one.verdict.refusal.text()))
    return found


def test_the_guard_begins_with_the_words_that_qemu_itself_said() -> None:
    assert len(refusals()) == 8  # postcopy by QMP, by HMP and to a peer, and background snapshot, on two versions
    for theirs, ours in refusals():
        assert ours.startswith(theirs.removeprefix("Error: ").rstrip())


@pytest.mark.parametrize("name", ALL)
def test_in_mode_warn_nothing_of_it_is_refused(name: str) -> None:
    assert all(one.verdict is None or one.verdict.refusal is None for one in judged(name, Policy(mode=Mode.WARN)))


def test_readers_know_every_argument_of_the_recorded_versions() -> None:
    schemas = json.loads((TRANSCRIPTS / "arguments.json").read_text())
    assert len(schemas) == 3
    for version, commands in schemas.items():
        assert unknown_arguments(Schema({c: frozenset(a) for c, a in commands.items()})) == [], version
        assert {command for command, reader in READERS.items() if reader.known is not None} <= commands.keys()
