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
from tests.support.replay import TRANSCRIPTS, Line, judged

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


def called(line: Line) -> str:
    command = line["arguments"]["command-line"] if line["execute"] == "human-monitor-command" else line["execute"]
    return str(command) if line["who"] == "src" else f"dst {command}"


@pytest.mark.parametrize("name", ALL)
def test_what_the_guard_says_to_a_recorded_conversation(name: str) -> None:
    said = [
        (called(line), [f.rule if f.mode is Mode.ENFORCE else f"({f.rule})" for f in verdict.findings])
        for line, verdict, _ in judged(name, Policy())
        if verdict is not None and verdict.findings
    ]
    assert said == SAID[name.partition("-")[2]]


def refusals() -> list[tuple[str, int, str]]:
    """Where QEMU itself refused because of a VFIO device, and its words."""
    found = []
    for name in ALL:
        for number, (line, _, _) in enumerate(judged(name, Policy())):
            reply = line.get("reply", {})
            words = str(reply.get("error", {}).get("desc") or reply.get("return", ""))
            if "VFIO migration is not supported with" in words:
                found.append((name, number, words))
    return found


def test_the_guard_begins_with_the_words_that_qemu_itself_said() -> None:
    assert len(refusals()) == 8  # postcopy by QMP, by HMP and to a peer, and background snapshot, on two versions
    for name, number, words in refusals():
        verdict = list(judged(name, Policy()))[number][1]
        assert verdict is not None
        assert verdict.refusal is not None
        assert verdict.refusal.text().startswith(words.removeprefix("Error: ").rstrip())


@pytest.mark.parametrize("name", ALL)
def test_in_mode_warn_nothing_of_it_is_refused(name: str) -> None:
    assert all(v is None or v.refusal is None for _, v, _ in judged(name, Policy(mode=Mode.WARN)))


def test_readers_know_every_argument_of_the_recorded_versions() -> None:
    schemas = json.loads((TRANSCRIPTS / "arguments.json").read_text())
    assert len(schemas) == 3
    for version, commands in schemas.items():
        assert unknown_arguments(Schema({c: frozenset(a) for c, a in commands.items()})) == [], version
        assert {command for command, reader in READERS.items() if reader.known is not None} <= commands.keys()
