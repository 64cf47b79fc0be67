"""The survey: which questions are asked, in which order, and how their answers are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.policy.bursts import Answer, Missing, Query, Unexpected, drive
from qmpguard.policy.combination import MIGRATION, Capability, Combination
from qmpguard.policy.device import Device
from qmpguard.policy.facts import Fact, Facts
from qmpguard.policy.migration import Progress
from qmpguard.policy.mode import Profile
from qmpguard.policy.netdevs import netdev
from qmpguard.policy.operations import AddDevice, CallUnlisted, SetCapabilities
from qmpguard.policy.policy import Policy
from qmpguard.policy.readers import read
from qmpguard.policy.reading.result import Harmless, Unreadable
from qmpguard.policy.survey import inquire, observe

if TYPE_CHECKING:
    from collections.abc import Generator

    from qmpguard.policy.verdict import Verdict

DEVICES = {
    "/machine/peripheral": [
        {"name": "type", "type": "string"},
        {"name": "gpu0", "type": "child<vfio-pci>"},
        {"name": "net0", "type": "child<virtio-net-pci>"},
    ],
    "/machine/peripheral-anon": [{"name": "device[0]", "type": "child<vfio-pci>"}],
}


class World:
    """Answers as a QEMU would, and remembers what it was asked."""

    def __init__(self, *on: str, **answers: Any) -> None:
        self.asked: list[str] = []
        self.bursts: list[list[str]] = []
        self.answers: dict[str, Any] = {
            "query-migrate-capabilities": [
                {"capability": c, "state": c in on} for c in ("postcopy-ram", "background-snapshot", "xbzrle")
            ],
            "query-status": {"status": "running"},
            "query-migrate": {},
            "query-named-block-nodes": [],
            "query-migrate-parameters": {},
        } | {name.replace("_", "-"): answer for name, answer in answers.items()}
        self.folders: dict[str, Any] = {folder: [] for folder in DEVICES}
        self.properties: dict[tuple[str, str], Any] = {("/machine/peripheral/gpu0", "host"): "0000:65:00.0"}

    def answer(self, query: Query) -> Any:
        self.asked.append(query.command)
        arguments: dict[str, Any] = dict(query.arguments)
        if query.command == "qom-list":
            return self.folders[arguments["path"]]
        if query.command == "qom-get":
            assert query.optional
            return self.properties.get((arguments["path"], arguments["property"]), Missing())
        return self.answers[query.command]

    def judge(self, command: str, arguments: dict[str, Any], policy: Policy | None = None) -> Verdict:
        operation = read(command, arguments, policy or Policy())
        assert operation is not None
        assert not isinstance(operation, Harmless | Unreadable)
        verdict: Verdict = self.drive(inquire(operation, policy or Policy()))[0]
        return verdict

    def observe(self, facts: Facts, *wanted: Fact) -> Facts:
        found: Facts = self.drive(observe(Policy(), facts, wanted))
        return found

    def drive(self, questions: Generator[tuple[Query, ...], tuple[Any, ...], Any]) -> Any:
        try:
            queries = next(questions)
            while True:
                self.bursts.append([f"{query.command} {_about(query)}".strip() for query in queries])
                queries = questions.send(tuple(self.answer(q) for q in queries))
        except StopIteration as done:
            return done.value


def _about(query: Query) -> str:
    """What a query is about, in short."""
    return " ".join(str(value).rpartition("/")[2] for _, value in query.arguments if value is not True)


def set_on(name: str) -> tuple[str, dict[str, Any]]:
    return "migrate-set-capabilities", {"capabilities": [{"capability": name, "state": True}]}


PLUG = ("device_add", {"driver": "vfio-pci", "id": "hp0"})


def test_a_capability_asks_for_devices_only_and_for_details_only_to_refuse() -> None:
    world = World()
    assert world.judge(*set_on("postcopy-ram")).refusal is None
    assert "qom-get" not in world.asked
    world.folders = DEVICES
    refusal = world.judge(*set_on("postcopy-ram")).refusal
    assert refusal is not None
    assert refusal.problem.devices == ("/machine/peripheral-anon/device[0]", "gpu0")


def test_a_remembered_back_end_asks_for_its_devices() -> None:
    world = World(query_status={"status": "running"})
    world.folders = DEVICES | {"/machine/peripheral-anon": [{"name": "device[0]", "type": "child<virtio-net-pci>"}]}
    world.folders["/machine/peripheral"] = DEVICES["/machine/peripheral"][2:]
    world.properties = {
        ("/machine/peripheral/net0", "netdev"): "n0",
        ("/machine/peripheral-anon/device[0]", "netdev"): "n1",
    }
    operation = read(*set_on("postcopy-ram"), Policy())
    assert isinstance(operation, SetCapabilities)
    known = Facts(netdevs=(netdev("vhost-vdpa", "n0"), netdev("vhost-user", "n1")))
    verdict, facts = world.drive(inquire(operation, Policy(), known))
    assert [(f.rule, f.problem.devices) for f in verdict.findings] == [("vdpa-postcopy", ("netdev n0 of net0",))]
    assert facts.nics == (("n1", "/machine/peripheral-anon/device[0]"), ("n0", "net0"))
    assert "with netdev_del" in verdict.findings[0].problem.fix


def test_without_a_remembered_back_end_no_device_is_asked_for_its_own() -> None:
    world = World()
    world.folders = DEVICES | {"/machine/peripheral-anon": []}
    world.folders["/machine/peripheral"] = DEVICES["/machine/peripheral"][2:]
    assert world.judge(*set_on("postcopy-ram")).findings == ()
    assert "qom-get" in world.asked, "the standbys"
    world.asked.clear()
    assert world.judge("netdev_add", {"type": "vhost-vdpa", "id": "n"}).findings == ()
    assert world.asked == ["query-migrate-capabilities"]


def test_plugging_without_a_dangerous_bit_asks_for_the_capabilities_only() -> None:
    world = World()
    assert world.judge(*PLUG).refusal is None
    assert world.asked == ["query-migrate-capabilities"]


def test_plugging_with_one_asks_whether_harm_can_follow() -> None:
    assert World("postcopy-ram").judge(*PLUG).refusal is not None
    over = World("postcopy-ram", query_migrate={"status": "completed"})
    assert over.judge(*PLUG).refusal is not None
    operation = read(*PLUG, Policy())
    assert isinstance(operation, AddDevice)
    verdict, _ = over.drive(inquire(operation, Policy(), Facts(left_on=frozenset({"postcopy-ram"}))))
    assert verdict.refusal is None
    assert [f.rule for f in verdict.warnings] == ["vfio-postcopy"]


def test_a_failover_primary_is_known_by_its_standby() -> None:
    world = World()
    world.folders = DEVICES
    world.properties |= {
        ("/machine/peripheral/gpu0", "failover_pair_id"): "net0",
        ("/machine/peripheral-anon/device[0]", "failover_pair_id"): "",
        ("/machine/peripheral/net0", "failover"): True,
    }
    lenient = Policy(allow_failover_primary=True)
    refusal = world.judge(*set_on("postcopy-ram"), lenient).refusal
    assert refusal is not None
    assert refusal.problem.devices == ("/machine/peripheral-anon/device[0]",)


def test_a_hidden_primary_is_forgotten_with_its_standby_or_when_it_shows() -> None:
    primary = Device("/machine/peripheral/gpu0", "vfio-pci", "gpu0", failover_pair_id="net0")
    hidden = Facts(hidden=(primary,))
    for pair, left in (("net0", ()), ("", (primary,)), ("net1", (primary,))):  # another device may have its id
        world = World()
        world.folders = DEVICES
        world.properties["/machine/peripheral/gpu0", "failover_pair_id"] = pair
        assert world.observe(hidden, Fact.DEVICES).hidden == (primary,)
        assert world.observe(hidden, Fact.DEVICES, Fact.DETAILS).hidden == left
    assert World().observe(hidden, Fact.DEVICES, Fact.DETAILS).hidden == (primary,)
    assert World().observe(hidden, Fact.DEVICES, Fact.STANDBYS).hidden == ()


def test_a_look_asks_every_device_for_all_details() -> None:
    world = with_devices(World(), 2)
    world.properties["/machine/peripheral/gpu01", "failover_pair_id"] = "net0"
    first, second = world.observe(Facts(), Fact.DEVICES, Fact.DETAILS).details or ()
    assert (first.sysfsdev, first.failover_pair_id, second.failover_pair_id) == (
        *("/sys/bus/pci/devices/0000:gpu00", None, "net0"),
    )
    assert world.asked.count("qom-get") == 6


def test_the_type_of_an_object_is_asked_for_when_its_property_is_set() -> None:
    for kind, refused in (("vfio-pci", True), ("e1000e", False), (Missing(), False)):
        world = World()
        world.properties["gpu0", "type"] = kind
        verdict = world.judge("qom-set", {"path": "gpu0", "property": "realized", "value": False})
        assert (verdict.refusal is not None) == refused
        assert world.asked == ["qom-get"]


def test_a_command_that_no_reader_knows_is_looked_up_in_the_schema() -> None:
    world = World(query_qmp_schema=[{"name": "query-status", "meta-type": "command", "arg-type": "0"}])
    strict = Policy(profile=Profile.STRICT)
    for command, refused in (("query-status", False), ("nonsense", True)):
        verdict, _ = world.drive(inquire(CallUnlisted(command), strict))
        assert (verdict.refusal is not None) == refused
    world.answers["query-qmp-schema"] = [5]
    with pytest.raises(Unexpected):
        world.drive(inquire(CallUnlisted("x"), strict))


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("query-migrate-capabilities", {}),
        ("query-migrate-capabilities", [{"capability": "x"}]),
        ("query-migrate-capabilities", Missing()),
        ("query-status", []),
        ("query-migrate", []),
        ("query-migrate", {"status": 5}),
    ],
)
def test_an_answer_of_another_form_is_unexpected(command: str, answer: Any) -> None:
    world = World("postcopy-ram")
    world.answers[command] = answer
    with pytest.raises(Unexpected):
        world.observe(Facts(), Fact.CAPABILITIES, Fact.RUNSTATE, Fact.MIGRATION)


def test_the_sockets_of_character_devices_are_asked_for_where_an_address_is_used() -> None:
    strict = Policy(profile=Profile.STRICT)
    world = World(query_chardev=[{"label": "compat_monitor0", "filename": "disconnected:unix:/a/qmp.sock,server=on"}])
    for path, refused in (("/b/qmp.sock", True), ("/b/other.sock", False)):
        request = ("chardev-add", {"id": "c", "backend": {"type": "socket", "data": {"path": path}}})
        assert (world.judge(*request, strict).refusal is not None) == refused
    assert set(world.asked) == {"query-chardev"}
    world.answers["query-chardev"] = {}
    with pytest.raises(Unexpected, match="query-chardev"):
        world.judge("chardev-add", {"path": "/x"}, strict)


def test_a_list_of_block_nodes_of_another_form_is_unexpected() -> None:
    world = World(query_named_block_nodes={})
    with pytest.raises(Unexpected, match="query-named-block-nodes"):
        world.judge(*set_on("postcopy-ram"))


def test_a_list_of_devices_of_another_form_is_unexpected() -> None:
    world = World()
    world.folders = {folder: [{"name": 1}] for folder in DEVICES}
    with pytest.raises(Unexpected):
        world.judge(*set_on("postcopy-ram"))


@pytest.mark.parametrize(
    ("answer", "progress"),
    [
        ({"status": "active"}, None),
        ({"status": "active", "ram": {"transferred": 5, "total": 9, "remaining": 4}}, Progress(5, 9, remaining=4)),
        ({"status": "active", "ram": {"transferred": 5, "total": 9}, "vfio": {"transferred": 3}}, Progress(5, 9, 3)),
        ({"status": "completed", "vfio": {"transferred": 0}}, Progress(0, 0, 0)),
        ({"status": "active", "ram": {"transferred": "many"}, "vfio": 7}, None),
    ],
)
def test_a_migrations_progress_is_read_and_never_an_obstacle(answer: dict[str, Any], progress: Progress | None) -> None:
    facts: Facts = World(query_migrate=answer).drive(observe(Policy(), wanted=(Fact.MIGRATION,)))
    assert facts.migration is not None
    assert facts.migration.progress == progress


CAPABILITIES, LISTS = "query-migrate-capabilities", ["qom-list peripheral", "qom-list peripheral-anon"]
MIGRATE = ("migrate", {"uri": "unix:/x"})
NODES = "query-named-block-nodes"


def with_devices(world: World, count: int, driver: str = "vfio-pci", *others: str) -> World:
    names = {f"gpu{i:02}": driver for i in range(count)} | {f"net{i}": kind for i, kind in enumerate(others)}
    world.folders["/machine/peripheral"] = [{"name": n, "type": f"child<{kind}>"} for n, kind in names.items()]
    for name in names:
        world.properties[f"/machine/peripheral/{name}", "sysfsdev"] = f"/sys/bus/pci/devices/0000:{name}"
        world.properties[f"/machine/peripheral/{name}", "failover_pair_id"] = ""
    return world


def test_one_burst_asks_all_where_there_is_no_vfio_device() -> None:
    world = with_devices(World(), 0, "", "virtio-net-pci", "virtio-blk-pci")
    assert not world.judge(*MIGRATE).findings
    assert world.bursts == [[CAPABILITIES, *LISTS]]


@pytest.mark.parametrize("count", [1, 16])
@pytest.mark.parametrize("others", [(), ("virtio-net-pci", "virtio-net-pci")])
def test_a_refusal_asks_for_the_first_device_alone_and_for_no_warning(count: int, others: tuple[str, ...]) -> None:
    world = with_devices(World("postcopy-ram"), count, "vfio-pci", *others)
    verdict = world.judge(*MIGRATE)
    first = [f"qom-get gpu00 {name}" for name in ("sysfsdev", "failover_pair_id")]
    assert world.bursts == [[CAPABILITIES, *LISTS], [NODES, "query-migrate", "query-status", *first]]
    assert verdict.refusal is not None
    assert verdict.refusal.problem.refusal.startswith("0000:gpu00: VFIO migration")
    assert verdict.refusal.problem.devices == tuple(f"gpu{i:02}" for i in range(count))
    assert (verdict.warnings, str(verdict.qemu_check)) == ((), "yes (upstream since 8.2; not proven on this VM)")


def test_a_refusal_of_a_vfio_user_device_asks_it_nothing() -> None:
    world = with_devices(World("postcopy-ram"), 16, "vfio-user-pci")
    verdict = world.judge(*MIGRATE)
    pair = "qom-get gpu00 failover_pair_id"
    assert world.bursts == [[CAPABILITIES, *LISTS], [NODES, "query-migrate", "query-status", pair]]
    assert [finding.rule for finding in verdict.findings] == ["vfio-postcopy", "vfio-state-lost"]
    assert str(verdict.qemu_check) == "no (its check does not see such a device)"


def test_a_device_without_sysfsdev_is_asked_for_its_host() -> None:
    world = with_devices(World("postcopy-ram"), 1)
    del world.properties["/machine/peripheral/gpu00", "sysfsdev"]
    world.properties["/machine/peripheral/gpu00", "host"] = "65:00.0"
    refusal = world.judge(*MIGRATE).refusal
    assert world.bursts[2:] == [["qom-get gpu00 host"]]
    assert refusal is not None
    assert refusal.problem.refusal.startswith("0000:65:00.0: ")


def test_a_rule_that_warns_asks_where_nothing_refuses() -> None:
    world = with_devices(World(), 2, "vfio-pci", "virtio-net-pci")
    assert not world.judge(*MIGRATE).findings
    assert world.bursts == [[CAPABILITIES, *LISTS], [f"qom-get gpu0{i} failover_pair_id" for i in (0, 1)]]
    world.properties["/machine/peripheral/gpu01", "failover_pair_id"] = "gone"
    world.bursts.clear()
    (warning,) = world.judge(*MIGRATE).warnings
    assert world.bursts[2:] == [
        ["qom-get net0 failover"],
        ["query-migrate-parameters"],
        ["qom-get gpu01 sysfsdev"],
    ]
    assert warning.problem.devices == ("gpu01",)


def test_the_first_device_decides_whether_failover_is_hinted_at() -> None:
    for name, hinted in (("gpu00", True), ("gpu01", False)):
        world = with_devices(World("postcopy-ram"), 2, "vfio-pci", "virtio-net-pci")
        world.properties[f"/machine/peripheral/{name}", "failover_pair_id"] = "net0"
        world.properties["/machine/peripheral/net0", "failover"] = True
        refusal = world.judge(*MIGRATE).refusal
        assert refusal is not None
        assert ("allow_failover_primary" in refusal.problem.fix) == hinted


def test_a_sites_own_combination_asks_a_device_nothing_and_hints_at_no_exemption() -> None:
    row = Combination("own", ("vfio-pci",), Capability("xbzrle"), MIGRATION, "not here")
    world = with_devices(World("xbzrle"), 1, "vfio-pci", "virtio-net-pci")
    world.properties["/machine/peripheral/gpu00", "failover_pair_id"] = "net0"
    world.properties["/machine/peripheral/net0", "failover"] = True
    refusal = world.judge(*MIGRATE, Policy(combinations=(row,))).refusal
    assert refusal is not None
    assert "allow_failover_primary" not in refusal.problem.fix
    assert not [query for burst in world.bursts for query in burst if "sysfsdev" in query]


def test_what_a_rule_needs_to_refuse_is_asked_for_whatever_another_one_has_found() -> None:
    """A finding that refuses keeps no other rule that refuses from its facts."""
    world = with_devices(World("postcopy-ram", "background-snapshot"), 1)
    world.answers["query-status"] = {"status": "prelaunch"}
    verdict = world.judge(*MIGRATE)
    assert [f.rule for f in verdict.findings] == ["vfio-postcopy", "vfio-background-snapshot", "snapshot-runstate"]


async def test_the_driver_sends_each_burst_and_returns_the_result() -> None:
    asked: list[tuple[Query, ...]] = []

    async def ask(queries: tuple[Query, ...]) -> tuple[Answer, ...]:
        asked.append(queries)
        return ({"status": "running"},) if queries[0].command == "query-status" else ({},)

    facts = await drive(observe(Policy(), wanted=(Fact.RUNSTATE, Fact.PARAMETERS)), ask)
    assert (facts.runstate, facts.parameters) == ("running", {})
    assert asked == [(Query("query-status"),), (Query("query-migrate-parameters"),)]


async def test_the_driver_raises_what_asking_raises() -> None:
    async def ask(queries: tuple[Query, ...]) -> tuple[Answer, ...]:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await drive(observe(Policy(), wanted=(Fact.RUNSTATE,)), ask)


def test_capabilities_are_asked_for_also_of_a_qemu_that_has_them_as_parameters() -> None:
    questions = observe(Policy(), wanted=(Fact.CAPABILITIES,))
    assert next(questions) == (Query("query-migrate-capabilities", optional=True),)
    assert questions.send((Missing(),)) == (Query("query-migrate-parameters"),)
