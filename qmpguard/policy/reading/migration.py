"""Readers of the commands that start, control or prepare a migration or a snapshot to disk."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qmpguard.policy import sockets
from qmpguard.policy.argument_values import TooManyValuesError
from qmpguard.policy.built_in_combinations import watched_settings
from qmpguard.policy.crashes import crash
from qmpguard.policy.descriptors import numbered
from qmpguard.policy.migration import Start
from qmpguard.policy.operations import RunProgram, SetCapabilities, StartMigration, UseDescriptor
from qmpguard.policy.reading.result import MAX_ENTRIES, TOO_MANY, Arguments, Harmless, Reading, Unreadable
from qmpguard.policy.schema import CAPABILITIES
from qmpguard.policy.target import leaves_the_host

if TYPE_CHECKING:
    from qmpguard.policy.policy import Policy
    from qmpguard.wire.json import Value


def read_set_capabilities(arguments: Arguments, policy: Policy) -> Reading:
    """``migrate-set-capabilities``: QEMU applies the list in order, so the last entry of a name wins."""
    entries = arguments.get("capabilities")
    if not isinstance(entries, list) or len(entries) > MAX_ENTRIES:
        return Unreadable(f"'capabilities' is not a list of at most {MAX_ENTRIES} entries")
    states = []
    for entry in entries:
        match entry:
            case {"capability": str(name), "state": bool(state), **rest} if not rest:
                states.append((name, state))
            case _:
                return Unreadable("an entry of 'capabilities' is not {capability, state}")
    return switched(states, policy)


def switched(states: list[tuple[str, bool]], policy: Policy) -> Reading:
    """Return the operation that switches capabilities; `Harmless` where none is switched on that a rule looks at."""
    judged = watched_settings(policy).capabilities
    if any(state and name in judged for name, state in dict(states).items()):
        return SetCapabilities(tuple(states))
    return Harmless()


def read_set_parameters(arguments: Arguments, policy: Policy) -> Reading:
    """``migrate-set-parameters``: judged where a parameter is a capability, or runs a program.

    A pending change in QEMU turns capabilities into parameters.
    """
    states = []
    judged = watched_settings(policy)
    for name in sorted((CAPABILITIES | judged.capabilities) & arguments.keys()):
        state = arguments[name]
        if not isinstance(state, bool):
            return Unreadable(f"'{name}' is not a boolean")
        states.append((name, state))
    program = "cpr-exec-command" if arguments.get("cpr-exec-command") else None
    parameters = tuple((name, arguments[name]) for name in sorted(judged.parameters & arguments.keys()))
    if parameters or any(state and name in judged.capabilities for name, state in states):
        return SetCapabilities(tuple(states), program, parameters)
    return RunProgram(program) if program else Harmless()


def read_migrate(arguments: Arguments, policy: Policy) -> Reading:
    """``migrate``: starts an outgoing migration; with ``resume`` it continues one that was judged before."""
    match arguments.get("resume", False):
        case True:
            return read_steering(arguments, policy)
        case False:
            return _start(
                StartMigration(Start.OUTGOING, to_another_host=leaves_the_host(arguments)), "migrate", arguments
            )
        case _:
            return Unreadable("'resume' is not a boolean")


def read_migrate_incoming(arguments: Arguments, policy: Policy) -> Reading:
    """``migrate-incoming``: starts an incoming migration; QEMU has no check of its own on this side."""
    return _start(StartMigration(Start.INCOMING), "migrate-incoming", arguments)


def read_start_postcopy(arguments: Arguments, policy: Policy) -> Reading:
    """``migrate-start-postcopy``: the last chance to refuse a combination that was not made through the guard."""
    return StartMigration(Start.POSTCOPY)


def read_snapshot_save(arguments: Arguments, policy: Policy) -> Reading:
    """``snapshot-save``: judged at the command, since its job would report no error."""
    return StartMigration(Start.SAVE)


def read_snapshot_load(arguments: Arguments, policy: Policy) -> Reading:
    """``snapshot-load``: as ``snapshot-save``."""
    return StartMigration(Start.LOAD)


def read_steering(arguments: Arguments, policy: Policy) -> Reading:
    """``migrate_cancel`` and similar commands for a running migration: they never wait.

    They are judged where they run a program, or name a descriptor by its number.
    """
    try:
        program, number = _program(arguments), numbered(dict(arguments))
    except TooManyValuesError:
        return TOO_MANY
    if number is not None:
        return UseDescriptor(number, program)
    return RunProgram(program) if program else Harmless()


def _start(start: StartMigration, command: str, arguments: Arguments) -> Reading:
    try:
        addresses, number = sockets.addresses(dict(arguments)), numbered(dict(arguments))
    except TooManyValuesError:
        return TOO_MANY
    found = replace(start, addresses=addresses, numbered=number)
    return replace(found, program=_program(arguments), crash=crash(command, arguments))


def _program(arguments: Arguments) -> str | None:
    """Return the program that a migration would run: its ``exec:`` URI, or a channel with transport ``exec``."""
    uri, channels = arguments.get("uri"), arguments.get("channels")
    if isinstance(uri, str) and uri.startswith("exec:"):
        return f"uri '{uri}'"
    if isinstance(channels, list) and any(map(_is_exec, channels[:MAX_ENTRIES])):  # QEMU takes two at most
        return "a channel with transport 'exec'"
    return None


def _is_exec(channel: Value) -> bool:
    address = channel.get("addr") if isinstance(channel, dict) else None
    return isinstance(address, dict) and address.get("transport") == "exec"
