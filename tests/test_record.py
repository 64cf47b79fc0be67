"""The journal: what is kept, in which order, and who is told."""

from __future__ import annotations

from qmpguard.policy.verdict import Verdict
from qmpguard.record import MAX_COMMAND, MAX_DATA, Decision, Entry, Event, Journal, LinkChange, Peer, Run


def test_many_events_do_not_push_decisions_out() -> None:
    journal = Journal("a", Run("cafe"), size=3)
    decision = Decision(journal.next_ref, Peer(1), "migrate", Verdict(), "11.1.0")
    journal.add(1.0, decision)
    for n in range(100):
        journal.add(2.0 + n, Event("RTC_CHANGE", "{}"))
    assert [entry.number for entry in journal.since(0)] == [1, 99, 100, 101]
    assert decision.ref == "cafe-1"


def test_the_happenings_of_all_vms_share_one_count_so_that_one_number_is_a_place_in_all_of_them() -> None:
    run = Run("cafe")
    one, other = Journal("a", run), Journal("b", run)
    for journal in (one, other, one):
        journal.add(0.0, LinkChange(up=True, what="11.1.0"))
    assert [entry.number for entry in one.since(0)] == [1, 3]
    assert [entry.number for entry in one.since(1)] == [3]
    assert other.next_ref == "cafe-4"


def test_a_listener_is_told_until_it_has_enough() -> None:
    journal = Journal("a", Run())
    told: list[Entry] = []
    stop = journal.listen(told.append)
    journal.add(0.0, Event("STOP", "{}"))
    stop()
    journal.add(0.0, Event("RESUME", "{}"))
    assert [entry.what for entry in told] == [Event("STOP", "{}")]


def test_a_command_with_a_name_of_megabytes_does_not_stay_in_memory() -> None:
    assert len(Decision("r-1", Peer(1), "x" * 4_000_000, Verdict(), "11.1.0").command) == MAX_COMMAND


def test_an_event_with_more_data_than_any_of_qemus_is_kept_without_it() -> None:
    assert Event("A", '"' + "x" * MAX_DATA + '"').data == "{}"
    assert Event("A", "[1]").data == "[1]"
