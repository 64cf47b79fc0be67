"""What was last seen of a VM: facts that are merged, and the course of a migration."""

from __future__ import annotations

from qmpguard.policy.device import Device
from qmpguard.policy.facts import Facts
from qmpguard.policy.migration import Migration, Progress
from qmpguard.proxy.state.last_seen import MAX_STEPS, LastSeen, MigrationHistory
from qmpguard.wire.qemu_messages import QemuEvent

PLAIN = Device("/machine/peripheral/gpu0", "vfio-pci", "gpu0")
DETAILED = Device("/machine/peripheral/gpu0", "vfio-pci", "gpu0", host="0000:65:00.0")
OTHER = Device("/machine/peripheral/gpu1", "vfio-pci", "gpu1")


def status(name: str, *amounts: int) -> Facts:
    return Facts(migration=Migration(name, progress=Progress(*amounts) if amounts else None))


def statuses(sight: LastSeen) -> list[str]:
    return [step.status for step in sight.history.steps]


def test_what_a_survey_did_not_ask_for_stays_as_it_was() -> None:
    sight = LastSeen(lambda: 7.0)
    sight.saw(Facts(frozenset({"events"}), (PLAIN,), (), (DETAILED,), frozenset(), "running", Migration()))
    sight.saw(Facts(capabilities=frozenset(), devices=(PLAIN,), others=()))
    assert sight.facts == Facts(frozenset(), (PLAIN,), (), (DETAILED,), frozenset(), "running", Migration())
    assert sight.time == 7.0


def test_details_of_a_new_device_are_unknown_until_they_are_asked_for() -> None:
    sight = LastSeen(lambda: 7.0)
    sight.saw(Facts(devices=(PLAIN,), others=(), details=(DETAILED,), standbys=frozenset()))
    sight.saw(Facts(devices=(PLAIN, OTHER), others=(OTHER,)))
    assert sight.facts.details is None
    assert sight.facts.standbys is None


def test_a_migration_has_its_steps_in_order_and_moves() -> None:
    sight = LastSeen(iter(range(100)).__next__)
    sight.saw(status("none"))
    sight.started()
    for share in (10, 20):
        sight.saw(status("active", 100, 1000, share))
        assert sight.history.progress == Progress(100, 1000, share)
    sight.saw(status("completed"))
    assert statuses(sight) == ["setup", "active", "completed"]
    assert [step.time for step in sight.history.steps] == [1, 2, 4]
    assert sight.history.progress == Progress(100, 1000, 20)
    assert not sight.history.under_way


def test_the_next_migration_begins_anew() -> None:
    sight = LastSeen(lambda: 0.0)
    sight.saw(status("failed", 5, 9))
    sight.started()
    assert (statuses(sight), sight.history.progress) == (["setup"], None)


def test_events_say_it_too_and_a_look_that_was_overtaken_by_one_does_not_turn_the_clock_back() -> None:
    sight = LastSeen(lambda: 0.0)
    assert sight.happened(QemuEvent(b"", "MIGRATION", {"status": "setup"}))
    sight.started()
    sight.begins()
    assert sight.happened(QemuEvent(b"", "MIGRATION", {"status": "completed"}))
    sight.saw(status("active"))
    assert statuses(sight) == ["setup", "completed"]
    sight.begins()
    sight.saw(status("completed", 1, 1))
    assert sight.history.progress == Progress(1, 1)
    assert not sight.happened(QemuEvent(b"", "RTC_CHANGE", {}))


def test_a_migration_that_is_paused_for_ever_stays_bounded() -> None:
    course = MigrationHistory()
    for n in range(1000):
        course = course.at(n, "postcopy-paused" if n % 2 else "postcopy-active")
    assert len(course.steps) == MAX_STEPS
    assert course.status == "postcopy-paused"
