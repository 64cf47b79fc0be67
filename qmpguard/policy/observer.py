"""What an observer may ask: QEMU's queries, which change nothing and show no secret.

QEMU's convention is that a command that only asks is called ``query-...`` (docs/devel/qapi-code-gen.rst); the rest are
commands that were reviewed. Of HMP that is ``info``. What is not known to be a query is none.
"""

from __future__ import annotations

from collections.abc import Mapping

from qmpguard.policy.hmp import commands, parser
from qmpguard.policy.policy import Mode
from qmpguard.policy.verdict import Finding, Problem, Verdict
from qmpguard.wire.json import Value

#: how queries begin; the second are unstable ones
QUERIES = ("query-", "x-query-")
#: Queries that are called otherwise. Not among them: `qom-list-types`, `qom-list-properties` and
#: `device-list-properties`, which load modules or make objects and can so end QEMU, and `qom-list-get`, which shows
#: secrets among all else.
REVIEWED = frozenset({"qom-list", "qom-get", "trace-event-get-state"})
#: properties that may be the content of a secret object (crypto/secret.c)
SECRET = frozenset({"data", "rawdata", "password"})
#: what such a refusal is called where rules are named
RULE = "observer"


def judge_observer(command: str, arguments: Mapping[str, Value], commands: frozenset[str] | None) -> Verdict:
    """Return the verdict on an observer's request; ``commands`` are those of QEMU's schema, where it was read."""
    if _asks(command, arguments) and (commands is None or command in commands):
        return Verdict()
    problem = Problem(
        f"An observer may not use {command}: this socket is for queries only", "use the socket of operators"
    )
    return Verdict((Finding(RULE, Mode.ENFORCE, problem),))


def _only_asks(line: commands.HmpCommand) -> bool:
    """Say whether a line of HMP only asks: `info`, but for `info qdm`, which loads modules and can so end QEMU."""
    return isinstance(line, commands.Info) and line.what != "qdm"


def _asks(command: str, arguments: Mapping[str, Value]) -> bool:
    if command == "human-monitor-command":
        line = arguments.get("command-line")
        return isinstance(line, str) and _only_asks(parser.read(line))
    if command == "qom-get":
        name = arguments.get("property")
        return isinstance(name, str) and name not in SECRET
    return command.startswith(QUERIES) or command in REVIEWED
