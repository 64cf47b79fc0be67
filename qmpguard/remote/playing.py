"""Plays a recording to a live QEMU, and compares its replies. What the policy refuses is not sent."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from qemu.qmp import ExecuteError, QMPError

from qmpguard.address import parse_address
from qmpguard.errors import UnavailableError, UsageError
from qmpguard.policy.facts import Fact
from qmpguard.policy.judgment import concerns
from qmpguard.policy.operations import AddDevice, CallUnlisted
from qmpguard.policy.policy import Policy
from qmpguard.policy.readers import READERS, read
from qmpguard.policy.reading.result import Harmless, Unreadable
from qmpguard.policy.survey import inquire, observe
from qmpguard.proxy.judging.memory import Memory
from qmpguard.proxy.judging.refusal import was_accepted
from qmpguard.recording.judge import HIDDEN, has_hidden, reply_of
from qmpguard.recording.lines import GUARD, Exchange
from qmpguard.recording.reader import read_lines
from qmpguard.remote.inspection import ignore, open_vm
from qmpguard.wire.json import Number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from qmpguard.policy.facts import Facts
    from qmpguard.policy.operations import Operation
    from qmpguard.recording.lines import Members
    from qmpguard.remote.inspection import RemoteVm
    from qmpguard.wire.json import Value
    from qmpguard.wire.qemu_messages import Reply

#: seconds for one reply; `device_add` of a large VFIO device takes the longest
REPLY_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Played:
    """One command: why it was not sent, or how QEMU's reply differs. Both are empty where the reply is the same."""

    number: int
    line: Exchange
    skipped: str = ""
    difference: str = ""


async def play(
    address: str,
    texts: Iterable[str],
    name: str,
    choose: Callable[[Policy], Policy],
    *,
    only: str | None = None,
    tell: Callable[[str], None] = ignore,
) -> list[Played]:
    """Send the commands of one recorded VM to the QEMU at an address, one after the other. It changes that VM.

    ``choose`` makes the policy; a command that it refuses on the live machine is not sent. ``only`` is the VM where
    the recording has several. Raises `UsageError` and `UnavailableError`.
    """
    exchanges = _exchanges(texts, name, only)
    policy = choose(Policy())
    async with open_vm(parse_address(address), tell) as vm:
        tell(f"the commands of {name} are sent to {address}, and change its VM")
        player = _Player(vm, policy)
        return [await player.play(number, line) for number, line in exchanges]


def _exchanges(texts: Iterable[str], name: str, only: str | None) -> list[tuple[int, Exchange]]:
    lines = [(number, line) for number, line in read_lines(texts, name) if isinstance(line, Exchange)]
    vms = sorted({line.vm for _, line in lines})
    if only is not None and only not in vms:
        raise UsageError(f"{name}: there is no VM {only}, but {', '.join(vms) or 'none'}")
    if only is None and len(vms) > 1:
        raise UsageError(f"{name}: say --only {' or --only '.join(vms)}")
    return [(n, line) for n, line in lines if line.client != GUARD and only in (None, line.vm)]


class _Player:
    """Plays one recording. It remembers what a guard would remember of the commands that QEMU has executed."""

    def __init__(self, vm: RemoteVm, policy: Policy) -> None:
        self._vm = vm
        self._policy = policy
        self._memory = Memory()
        self._commands: frozenset[str] | None = None

    async def play(self, number: int, line: Exchange) -> Played:
        """Send one command, unless it must not or cannot be sent."""
        reading = self._read(line)
        if reason := _unsendable(line) or await self._why_not(reading):
            return Played(number, line, skipped=reason)
        reply = await _send(self._vm, line)
        await self._remember(reading, reply_of(replace(line, reply=reply)))
        return Played(number, line, difference=difference(line.reply, reply))

    def _read(self, line: Exchange) -> Operation | Unreadable | None:
        """Return what there is to judge; the gate reads the same way."""
        if line.command in READERS:
            reading = read(line.command, line.arguments or {}, self._policy)
            return None if isinstance(reading, Harmless) or not concerns(type(reading), self._policy) else reading
        return CallUnlisted(line.command) if concerns(CallUnlisted, self._policy) else None

    async def _why_not(self, reading: Operation | Unreadable | None) -> str:
        """Return why the policy does not let a command pass; empty: it does."""
        if reading is None:
            return ""
        if isinstance(reading, Unreadable):
            return reading.reason
        verdict, facts = await self._vm.ask(inquire(reading, self._policy, self._known))
        self._commands = facts.commands
        self._memory.saw(facts)
        return "" if verdict.refusal is None else f"the policy refuses it by rule {verdict.refusal.rule}"

    @property
    def _known(self) -> Facts:
        return self._memory.facts(self._commands, frozenset())

    async def _remember(self, reading: Operation | Unreadable | None, reply: Reply) -> None:
        if reading is None:
            return
        self._memory.on_reply(reading, reply)
        if isinstance(reading, AddDevice) and was_accepted(reply) and reading.device.failover_pair_id:
            facts = await self._vm.ask(observe(self._policy, wanted=(Fact.DEVICES, Fact.DETAILS)))
            shown = {(found.id, found.failover_pair_id) for found in facts.details or ()}
            if (reading.device.id, reading.device.failover_pair_id) not in shown:
                self._memory.primaries.add(reading.device)


def _unsendable(line: Exchange) -> str:
    """Return why a command cannot be sent, whatever the policy is; empty: it can."""
    if line.command == "qmp_capabilities":
        return "this connection is negotiated already"
    if line.descriptor:
        return "its descriptor is not in the recording"
    return "its arguments are hidden in the recording" if has_hidden(line.arguments) else ""


async def _send(vm: RemoteVm, line: Exchange) -> Members:
    """Return QEMU's reply. Raises `UnavailableError` when there is none."""
    arguments = cast("dict[str, object] | None", _plain(line.arguments))
    try:
        async with asyncio.timeout(REPLY_TIMEOUT):
            return {"return": cast("Value", await vm.client.execute(line.command, arguments, oob=line.oob))}
    except ExecuteError as error:
        return {"error": {"class": error.error_class, "desc": str(error)}}
    except (QMPError, TimeoutError, EOFError) as error:
        raise UnavailableError(f"QEMU did not answer {line.command}: it has ended or hangs") from error


def _plain(value: Value) -> object:
    """Return a value with Python's own numbers."""
    match value:
        case Number(text):
            return float(text)
        case dict():
            return {name: _plain(member) for name, member in value.items()}
        case list():
            return [_plain(member) for member in value]
        case _:
            return value


def difference(then: Value, now: Value, at: str = "") -> str:
    """Return the first place where two replies differ, in words; empty: none. Hidden parts are equal to any."""
    if isinstance(then, str) and any(word in then for word in HIDDEN):
        return ""
    match then, now:
        case dict(), dict():
            if then.keys() != now.keys():
                return f"{at or 'the reply'} had {_names(then)}, now has {_names(now)}"
            found = (difference(then[name], now[name], f"{at}.{name}".lstrip(".")) for name in then)
        case list(), list():
            if len(then) != len(now):
                return f"{at} had {len(then)} entries, now has {len(now)}"
            found = (difference(one, other, f"{at}[{i}]") for i, (one, other) in enumerate(zip(then, now, strict=True)))
        case _:
            same = _plain(then) == _plain(now) and isinstance(then, bool) == isinstance(now, bool)
            return "" if same else f"{at} was {_plain(then)!r}, is now {_plain(now)!r}"
    return next((text for text in found if text), "")


def _names(members: Members) -> str:
    return ", ".join(sorted(members)) or "nothing"
