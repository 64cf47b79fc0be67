"""The measurements. Each compares ways in interleaved rounds, so that other load on the machine meets all of them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks import rig
from benchmarks.client import Connection, Crowd, least, request
from qmpguard.demo.qemu import Qemu, vfio_user_device
from qmpguard.policy.bursts import Answer, Missing, Query
from qmpguard.policy.operations import Operation
from qmpguard.policy.policy import Policy
from qmpguard.policy.readers import read
from qmpguard.policy.survey import inquire

#: as libvirt writes it, and in the fewest bytes
STATUS, LEAST = request("query-status"), least("query-status")
SCHEMA = request("query-qmp-schema")
#: QEMU refuses it at once, since it has no such descriptor: there is no migration to be waited for
MIGRATE = {"uri": "fd:none"}
#: seconds for a guard to have read QEMU's schema and looked at the machine
SETTLE = 1.5
GUARD, GUARD_OOB, DIRECT, DIRECT_OOB = "guard", "guard, oob", "direct", "direct, oob"
#: requests that each of many clients has under way: as many as QEMU takes from one
DEPTH = 8


@dataclass(slots=True)
class Series:
    """What each way took, a value per round."""

    rounds: dict[str, list[float]]

    def median(self, way: str) -> float:
        """Return the middle of a way's rounds."""
        return median(self.rounds[way])

    def p99(self, way: str) -> float:
        """Return what 99 of 100 of a way's rounds stay below."""
        rounds = sorted(self.rounds[way])
        return rounds[len(rounds) * 99 // 100]

    def quotient(self, one: str, other: str) -> float:
        """Return the quotient of two medians."""
        return self.median(one) / self.median(other)

    def ratio(self, one: str, other: str) -> float:
        """Return how often the other goes into the one: the middle of the rounds' quotients."""
        return median(a / b for a, b in zip(self.rounds[one], self.rounds[other], strict=True))


@dataclass(slots=True)
class Way:
    """A client's connection to QEMU, and the process between the two, if there is one."""

    connection: Connection
    pid: int | None = None
    cpu: float = 0.0
    commands: int = 0

    def counting(self, measure: Callable[[], float], commands: int) -> float:
        """Measure, and count the CPU time of the process between."""
        before = rig.cpu_seconds(self.pid) if self.pid else 0.0
        seconds = measure()
        if self.pid:
            self.cpu += rig.cpu_seconds(self.pid) - before
            self.commands += commands
        return seconds

    def cpu_per_command(self) -> float:
        """Return seconds, and begin to count anew."""
        cpu, self.cpu, commands, self.commands = self.cpu, 0.0, self.commands, 0
        return cpu / commands


@dataclass(slots=True)
class Traffic:
    """What forwarding costs: series in seconds per command, CPU time in seconds per command and way.

    ``least`` is with the fewest bytes, ``single`` and ``single_least`` have every round trip by itself.
    """

    round_trip: Series
    least: Series
    single: Series
    single_least: Series
    pipelined: dict[int, Series]
    schema: Series
    cpu: dict[str, float]
    cpu_pipelined: dict[str, float]


@dataclass(slots=True)
class Verdicts:
    """What judging costs with some devices, in round trips of a direct `query-status`."""

    devices: int
    refused: float | None
    allowed: float
    qemu: float
    cpu_refused: float | None
    cpu_allowed: float
    burst: float
    questions: int
    bursts: int
    round_trip: float


@dataclass(slots=True)
class Fanout:
    """What events cost with 64 clients: seconds for each event to reach all, CPU seconds for each delivery."""

    seconds: float
    cpu: float


@dataclass(slots=True)
class Memory:
    """What a guard of so many VMs holds, in MiB."""

    sizes: dict[int, dict[str, float]] = field(default_factory=dict)


@dataclass(slots=True)
class Start:
    """Seconds from the start of the process to a client's greeting, and what importing takes of them."""

    greeting: float
    python: float
    imports: float


def interleave(ways: Mapping[str, Callable[[], float]], rounds: int) -> Series:
    """Measure each way in turn, beginning with another one in each round."""
    series: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for i in range(rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            series[name].append(ways[name]())
    return Series(series)


@contextmanager
def ways(qemu: Qemu) -> Iterator[dict[str, Way]]:
    """Connect by all ways to monitors of one QEMU."""
    with ExitStack() as stack:
        first, second, *others = qemu.monitors
        result = {DIRECT: Way(Connection(first)), DIRECT_OOB: Way(Connection(second, oob=True))}
        for (name, command), monitor in zip(rig.WAYS.items(), others, strict=True):
            listen = monitor.with_suffix(".in")
            running = stack.enter_context(rig.process(*command(monitor, listen)))
            result[name] = Way(Connection(listen), running.pid)
            if name == GUARD:
                result[GUARD_OOB] = Way(Connection(listen, oob=True), running.pid)
        for way in result.values():
            way.connection.round_trips(STATUS, 200)
        time.sleep(SETTLE)
        yield result
        for way in result.values():
            way.connection.close()


def traffic(qemu: Qemu, rounds: int) -> Traffic:
    """Measure what is forwarded."""
    with ways(qemu) as all_ways:

        def measure(
            calls: Callable[[Connection], Callable[[], float]], commands: int, rounds: int
        ) -> tuple[Series, dict[str, float]]:
            series = interleave(
                {name: partial(way.counting, calls(way.connection), commands) for name, way in all_ways.items()}, rounds
            )
            return series, {name: way.cpu_per_command() for name, way in all_ways.items() if way.pid}

        round_trip, cpu = measure(lambda c: partial(c.round_trips, STATUS, 100), 100, rounds)
        with_least = interleave(
            {name: partial(way.connection.round_trips, least_for(name), 100) for name, way in all_ways.items()}, rounds
        )
        single = _singly(all_ways, lambda _: STATUS, rounds)
        single_least = _singly(all_ways, least_for, rounds)
        deep, cpu_deep = measure(lambda c: partial(c.pipeline, STATUS, 160, 32), 160, rounds // 2)
        shallow, _ = measure(lambda c: partial(c.pipeline, STATUS, 160, 8), 160, rounds // 2)
        schema, _ = measure(lambda c: partial(c.round_trips, SCHEMA, 1), 1, rounds // 4)
    return Traffic(round_trip, with_least, single, single_least, {8: shallow, 32: deep}, schema, cpu, cpu_deep)


def least_for(way: str) -> bytes:
    """Return the request in the fewest bytes that a way takes: the qemu.qmp relay reads lines."""
    return LEAST + b"\n" if way == "qemu.qmp relay" else LEAST


def _singly(all_ways: Mapping[str, Way], message: Callable[[str], bytes], rounds: int) -> Series:
    """Measure every round trip by itself, in interleaved rounds of fifty."""
    trips = {name: partial(way.connection.single_trips, message(name), 50) for name, way in all_ways.items()}
    series: dict[str, list[float]] = {name: [] for name in trips}
    for _ in range(rounds):
        for name, take in trips.items():
            series[name] += take()
    return Series(series)


def short(qemu: Qemu, rounds: int) -> tuple[Series, Series]:
    """Measure round trips alone, as libvirt writes and with the fewest bytes: for another version of QEMU."""
    with ways(qemu) as all_ways:

        def measure(message: Callable[[str], bytes]) -> Series:
            trips = {name: partial(way.connection.round_trips, message(name), 100) for name, way in all_ways.items()}
            return interleave(trips, rounds)

        return measure(lambda _: STATUS), measure(least_for)


def crowds(qemu: Qemu, rounds: int) -> Series:
    """Measure seconds per command of one guard with 1, 8 and 64 clients, each with eight requests under way."""
    listen = qemu.monitors[0].with_suffix(".in")
    with rig.process(*rig.guard(qemu.monitors[0], listen)):
        Connection(listen).close()
        several = {str(count): Crowd(listen, count, DEPTH) for count in (1, 8, 64)}
        for crowd in several.values():
            crowd.ask(STATUS, 1024)
        time.sleep(SETTLE)
        series = interleave({name: partial(crowd.ask, STATUS, 1024) for name, crowd in several.items()}, rounds)
        for crowd in several.values():
            crowd.close()
    return series


def fanout(qemu: Qemu, rounds: int) -> Fanout:
    """Measure how long events take to 64 clients: twenty at a time, of `stop` and `cont`."""
    listen, clients, events = qemu.monitors[0].with_suffix(".in"), 64, 20
    with rig.process(*rig.guard(qemu.monitors[0], listen)) as running:
        Connection(listen).close()
        crowd, other = Crowd(listen, clients), Connection(qemu.monitors[1])
        time.sleep(SETTLE)
        commands = (request("stop") + request("cont")) * (events // 2)

        def deliver() -> float:
            start = time.perf_counter()
            other.sock.sendall(commands)
            crowd.hear(clients * events)
            seconds = time.perf_counter() - start
            other.hear(2 * events)  # the replies, and the same events
            return seconds / events

        other.ask(request("cont"))
        deliver()
        before = rig.cpu_seconds(running.pid)
        series = interleave({GUARD: deliver}, rounds)
        cpu = rig.cpu_seconds(running.pid) - before
        crowd.close()
        other.close()
    return Fanout(series.median(GUARD), cpu / (rounds * events * clients))


async def verdicts(binary: Path, folder: Path, devices: int, rounds: int) -> Verdicts:
    """Measure `migrate` refused (postcopy-ram is on behind the guard's back) and allowed, with VFIO devices."""
    folder.mkdir()
    device_socket = folder / "vu.sock"
    with rig.process(sys.executable, "-m", "qmpguard.demo.vfio_user", str(device_socket), ready=True):
        description = (json.dumps(vfio_user_device(device_socket, id=f"gpu{i}")) for i in range(devices))
        arguments = [part for text in description for part in ("-device", text)]
        async with Qemu(binary, folder, arguments, monitors=3, machine="pc") as qemu:
            return _verdicts(qemu, devices, rounds)


def _verdicts(qemu: Qemu, devices: int, rounds: int) -> Verdicts:
    listen = qemu.monitors[0].with_suffix(".in")
    migrate = request("migrate", MIGRATE)
    with rig.process(*rig.guard(qemu.monitors[0], listen)) as running:
        guarded, direct = Connection(listen), Connection(qemu.monitors[1])
        asking = Connection(qemu.monitors[2], oob=True)  # as the guard is: QEMU then reads ahead
        guarded.ask(migrate)
        time.sleep(SETTLE)
        questions = survey(direct)
        messages = [b"".join(map(_question, burst)) for burst in questions]

        def ask() -> float:
            start = time.perf_counter()
            for text, burst in zip(messages, questions, strict=True):
                asking.burst(text, len(burst))
            return time.perf_counter() - start

        way = Way(guarded, running.pid)
        measures: dict[str, Callable[[], float]] = {
            DIRECT: partial(direct.round_trips, STATUS, 20),
            GUARD: partial(way.counting, partial(guarded.round_trips, migrate, 2), 2),
            "qemu": partial(direct.round_trips, migrate, 2),
            "burst": ask,
        }
        assert b"fd set or file descriptor" in (answer := guarded.ask(migrate)) or b"has not been found" in answer
        allowed = interleave(measures, rounds)
        cpu_allowed = way.cpu_per_command()
        refused = cpu_refused = None
        if devices:
            _postcopy(direct, on=True)
            assert b"rule vfio-postcopy" in guarded.ask(migrate)
            series = interleave({name: measures[name] for name in (DIRECT, GUARD)}, rounds)
            refused, cpu_refused = series.ratio(GUARD, DIRECT), way.cpu_per_command()
        for connection in (guarded, direct, asking):
            connection.close()
    return Verdicts(
        devices,
        refused,
        allowed.ratio(GUARD, DIRECT),
        allowed.ratio("qemu", DIRECT),
        cpu_refused,
        cpu_allowed,
        allowed.ratio("burst", DIRECT),
        sum(map(len, questions)),
        len(questions),
        allowed.median(DIRECT),
    )


def _postcopy(connection: Connection, *, on: bool) -> None:
    connection.value("migrate-set-capabilities", {"capabilities": [{"capability": "postcopy-ram", "state": on}]})


def survey(connection: Connection) -> list[tuple[Query, ...]]:
    """Judge `migrate` over a connection of our own and return the questions that it took, burst by burst."""
    policy, bursts = Policy(), []
    operation = read("migrate", dict(MIGRATE), policy)
    questions = inquire(_operation(operation), policy)
    try:
        burst = next(questions)
        while True:
            bursts.append(burst)
            burst = questions.send(tuple(_answer(connection, query) for query in burst))
    except StopIteration:
        return bursts


def _operation(reading: object) -> Operation:
    return reading  # type: ignore[return-value]  # `migrate` with a URI is always one


def _answer(connection: Connection, query: Query) -> Answer:
    reply = json.loads(connection.ask(_question(query)))
    answer: Answer = reply.get("return", Missing())
    return answer


def _question(query: Query) -> bytes:
    return request(query.command, dict(query.arguments))


def memory(qemu: Qemu, folder: Path, counts: tuple[int, ...]) -> Memory:
    """Measure what guards of so many VMs hold: the first VM a real QEMU, the others fakes, each has served a client."""
    folder.mkdir()
    result = Memory()
    fakes = [str(folder / f"{i}.qemu") for i in range(1, max(counts))]
    (folder / "0.qemu").symlink_to(qemu.monitors[0])
    with rig.process(sys.executable, "-m", "benchmarks.idle_qemus", *fakes, ready=True):
        for count in counts:
            with rig.process(sys.executable, "-m", "benchmarks.many", str(folder), str(count)) as running:
                for i in range(count):
                    connection = Connection(folder / f"{i}.sock")
                    connection.round_trips(STATUS, 2)
                    connection.close()
                time.sleep(2 * SETTLE)
                result.sizes[count] = rig.memory(running.pid)
    return result


def start(qemu: Qemu, rounds: int) -> Start:
    """Measure how soon a client has its greeting, and what Python and our imports take."""
    listen = qemu.monitors[0].with_suffix(".in")

    def greeting() -> float:
        begin = time.perf_counter()
        with rig.process(*rig.guard(qemu.monitors[0], listen)):
            connection = Connection(listen)
            seconds = connection.greeted - begin
            connection.close()
        return seconds

    def python() -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", ""], check=True)
        return time.perf_counter() - begin

    series = interleave({GUARD: greeting, "python": python}, rounds)
    imports = median(_import_seconds() for _ in range(rounds))
    return Start(series.median(GUARD), series.median("python"), imports)


def _import_seconds() -> float:
    """Return what `-X importtime` says of what `qmpguard run` imports beyond an empty program."""
    begin = "from qmpguard.__main__ import import_asyncio; import_asyncio()"
    code = f"{begin}; import qmpguard.cli, qmpguard.config, qmpguard.daemon.serve"
    command = [sys.executable, "-X", "importtime", "-c", code]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, cwd=rig.ROOT).stderr.splitlines()
    rows = [line.removeprefix("import time:").split("|") for line in lines if "|" in line and "[us]" not in line]
    names = [row[2].strip() for row in rows]
    return sum(int(row[0]) for row in rows[names.index("site") + 1 :]) / 1e6
