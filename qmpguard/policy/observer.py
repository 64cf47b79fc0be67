"""The commands of an observer: queries that change nothing and show no secret.

By QEMU's convention a query is called ``query-...`` (docs/devel/qapi-code-gen.rst). Some other commands were reviewed.
Of HMP only ``info`` is a query. Every other command is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from qmpguard.policy.hmp import commands, parser
from qmpguard.policy.mode import Mode
from qmpguard.policy.problem import Finding, Problem
from qmpguard.policy.verdict import Verdict
from qmpguard.wire.json import Value

#: the prefixes of queries; the second is for unstable ones
QUERIES = ("query-", "x-query-")
#: Queries with other names. Not among them: `qom-list-types`, `qom-list-properties` and `device-list-properties`, which
#: load modules or create objects and so can end QEMU; and `qom-list-get`, which shows secrets too.
REVIEWED = frozenset({"qom-list", "qom-get", "trace-event-get-state"})
#: properties that can hold the content of a secret object (crypto/secret.c)
SECRET = frozenset({"data", "rawdata", "password"})
#: the rule id of these refusals
RULE = "observer"


def judge_observer(command: str, arguments: Mapping[str, Value], commands: frozenset[str] | None) -> Verdict:
    """Return the verdict on an observer's request; ``commands`` are those of QEMU's schema, None: not read."""
    if _asks(command, arguments) and (commands is None or command in commands):
        return Verdict()
    problem = Problem(
        f"An observer may not use {command}: this socket is for queries only", "use the socket of operators"
    )
    return Verdict((Finding(RULE, Mode.ENFORCE, problem),))


def _only_asks(line: commands.HmpCommand) -> bool:
    """Say whether an HMP line is a query: `info`, except `info qdm`, which loads modules and so can end QEMU."""
    return isinstance(line, commands.Info) and line.what != "qdm"


def _asks(command: str, arguments: Mapping[str, Value]) -> bool:
    if command == "human-monitor-command":
        line = arguments.get("command-line")
        return isinstance(line, str) and _only_asks(parser.read(line))
    if command == "qom-get":
        name = arguments.get("property")
        return isinstance(name, str) and name not in SECRET
    return command.startswith(QUERIES) or command in REVIEWED
