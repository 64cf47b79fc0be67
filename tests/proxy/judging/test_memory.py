"""What is remembered of one QEMU: what its replies tell, and no question would."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qmpguard.policy.device import Device
from qmpguard.policy.facts import Facts
from qmpguard.policy.migration import Start
from qmpguard.policy.operations import OpenMonitor, SetCapabilities, StartMigration
from qmpguard.policy.problem import MAX_TEXT
from qmpguard.policy.qemu_check import QEMU_ERRORS
from qmpguard.proxy.judging.memory import MAX_STANDBYS, MAX_WAYS, Memory
from qmpguard.wire.qemu_messages import Reply

YES, NO = Reply(accepted=True), Reply(accepted=False)
ON = Facts(capabilities=frozenset({"postcopy-ram", "xbzrle"}))

if TYPE_CHECKING:
    from qmpguard.wire.json import Value


def left_on(memory: Memory) -> frozenset[str]:
    return memory.facts(None, frozenset()).left_on


def test_at_first_nothing_is_remembered() -> None:
    assert Memory().facts(None, frozenset()) == Facts()


def test_what_is_known_from_elsewhere_is_a_fact_too() -> None:
    memory = Memory()
    memory.version = (10, 0, 2)
    assert memory.facts(frozenset({"migrate"}), frozenset({"q.sock"})) == Facts(
        commands=frozenset({"migrate"}), own=frozenset({"q.sock"}), version=(10, 0, 2)
    )


@pytest.mark.parametrize("start", [Start.OUTGOING, Start.INCOMING, Start.POSTCOPY])
def test_a_migration_that_was_accepted_uses_the_capabilities_that_are_on(start: Start) -> None:
    memory = Memory()
    memory.saw(ON)
    memory.on_reply(StartMigration(start), YES)
    assert left_on(memory) == {"postcopy-ram"}
    memory.on_reply(SetCapabilities((("postcopy-ram", True),)), YES)
    assert left_on(memory) == frozenset(), "it is meant for the next migration"


@pytest.mark.parametrize("reply", [NO, None, Reply(accepted=True, text="Error: busy")])
@pytest.mark.parametrize("start", [Start.OUTGOING])
def test_one_that_was_not_accepted_uses_none(start: Start, reply: Reply | None) -> None:
    memory = Memory()
    memory.saw(ON)
    memory.on_reply(StartMigration(start), reply)
    assert left_on(memory) == frozenset()


@pytest.mark.parametrize("start", [Start.SAVE, Start.LOAD])
def test_a_snapshot_to_disk_is_no_migration(start: Start) -> None:
    memory = Memory()
    memory.saw(ON)
    memory.on_reply(StartMigration(start), YES)
    assert left_on(memory) == frozenset()


@pytest.mark.parametrize(("rule", "words"), QEMU_ERRORS.items())
def test_a_refusal_of_qemus_own_confirms_its_rule(rule: str, words: str) -> None:
    memory = Memory()
    memory.on_reply(StartMigration(Start.OUTGOING), Reply(accepted=False, text=f"0000:65:00.0: {words}"))
    assert memory.facts(None, frozenset()).confirmed == {rule}


@pytest.mark.parametrize(("reply", "opened"), [(YES, True), (None, True), (NO, False)])
def test_a_monitor_that_may_have_been_opened_is_a_way_around(reply: Reply | None, *, opened: bool) -> None:
    memory = Memory()
    memory.on_reply(OpenMonitor("gdbserver"), reply)
    assert memory.ways_around == (("gdbserver",) if opened else ())


def test_ways_around_are_named_once_each_in_their_order_and_not_without_end() -> None:
    memory = Memory()
    for how in ("b", "a", "b", *map(str, range(20)), "x" * 10_000):
        memory.on_reply(OpenMonitor(how), YES)
    assert memory.ways_around[:3] == ("b", "a", "0")
    assert len(memory.ways_around) == MAX_WAYS
    assert all(len(way) <= MAX_TEXT for way in memory.ways_around)


def test_a_survey_says_which_hidden_primaries_are_left() -> None:
    memory = Memory()
    primary = Device("/machine/peripheral/p", "vfio-pci", "p", failover_pair_id="n")
    memory.primaries.add(primary)
    assert memory.facts(None, frozenset()).hidden == (primary,)
    memory.saw(Facts())
    assert memory.facts(None, frozenset()).hidden == ()


def test_a_standby_has_negotiated_from_its_event_until_it_is_gone() -> None:
    memory = Memory()
    for standby in ("net0", "net1", "net2"):
        memory.happened("FAILOVER_NEGOTIATED", {"device-id": standby})
    memory.happened("DEVICE_DELETED", {"device": "net1", "path": "/machine/peripheral/net1"})
    memory.happened("DEVICE_DELETED", {"path": "/machine/peripheral-anon/device[0]"})
    assert memory.facts(None, frozenset()).negotiated == {"net0", "net2"}
    memory.saw(Facts(standbys=frozenset({"net2"})))  # its event was missed
    assert memory.facts(None, frozenset()).negotiated == {"net2"}


@pytest.mark.parametrize("data", [{}, {"device-id": 5}, {"device-id": "x" * 100_000}])
def test_an_odd_negotiation_is_none(data: dict[str, Value]) -> None:
    memory = Memory()
    memory.happened("FAILOVER_NEGOTIATED", data)
    assert memory.negotiated == frozenset()


def test_negotiations_are_not_remembered_without_end() -> None:
    memory = Memory()
    for number in range(MAX_STANDBYS + 10):
        memory.happened("FAILOVER_NEGOTIATED", {"device-id": str(number)})
    assert len(memory.negotiated) == MAX_STANDBYS
