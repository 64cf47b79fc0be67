"""``qmpguard rules``: print the rules and their defaults."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

SUMMARY = "print the rules"
DESCRIPTION = "Print the rules and their defaults."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs")
    form.add_argument(
        "--markdown", action="store_true", help="with every rule's documentation; docs/rules.md is made so"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Print the table."""
    print(_for_programs() if arguments.json else markdown() if arguments.markdown else _for_people())
    return 0


def _for_programs() -> str:
    from qmpguard.policy.rules import table

    return json.dumps([{"id": i, "standard": a, "strict": b, "summary": s} for i, a, b, s in table()], indent=2)


def _for_people() -> str:
    from qmpguard.policy.rules import table

    rows = [("rule", "standard", "strict", "what it does"), *table()]
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"{i:{width}}  {standard:8}  {strict:7}  {summary}" for i, standard, strict, summary in rows)


def _hazards() -> str:
    head = "| hazard | QEMU 7.2.22 | 10.0.13 | 11.1.3 | the guard |\n|---|---|---|---|---|"
    return "\n".join([_ON_HAZARDS, "", head, *(f"| {' | '.join(row)} |" for row in _HAZARDS)])


_ON_HAZARDS = """## What QEMU does alone

Seen on running QEMUs, the last time on 2026-11-26; `?` was not tried. `tests/e2e/test_hazards.py` tries again those of 7.2 and
11.1 that need no hardware. `refuses` and `accepts` are about the command that begins it."""

_UNCHECKED = "?"
#: what can go wrong, and what becomes of it on each version; the last column names the rule
_HAZARDS = (
    ("`vfio-pci` and postcopy", "no check", "refuses", "refuses", "`vfio-postcopy`"),
    ("`vfio-pci` and background snapshot", "no check", "refuses", "refuses", "`vfio-background-snapshot`"),
    ("`vfio-pci` with an odd `failover_pair_id`, and either", "no check", "accepts; can kill the VM", "accepts; can kill the VM", "the same two"),
    ("`vfio-user-pci` and either", "no such device", "no such device", "accepts, state lost", "the same two"),
    ("a VFIO device and `x-colo`", _UNCHECKED, "accepts, stays in `device`", "accepts, stays in `device`", "`vfio-colo`"),
    ("a vhost-vdpa device and postcopy", _UNCHECKED, _UNCHECKED, "no check in its source", "`vdpa-postcopy`"),
    ("background snapshot, and memory that another process writes", "what was written later is in it", _UNCHECKED, "what was written later is in it", "`snapshot-foreign-dma`"),
    ("background snapshot in `prelaunch`", "aborts", "aborts", "aborts", "`snapshot-runstate`"),
    ("`snapshot-save` in mode `cpr-exec`", "no such mode", "no such mode", "concludes, holds no RAM", "`snapshot-cpr`"),
    ("`snapshot-save` with `multifd`", "dies (SIGSEGV)", _UNCHECKED, "refuses", "`snapshot-multifd`"),
    ("`snapshot-save` with `x-ignore-shared`", "concludes, holds no shared RAM", _UNCHECKED, "the same, where it is a file with a name", "`ignore-shared`"),
    ("`snapshot-save` with `vfio-user-pci`", "no such device", "no such device", "concludes, state lost", "`vfio-state-lost` warns"),
    ("`migrate` with one channel of type `cpr`, or `exec` with no `args`", "no channels", _UNCHECKED, "dies (SIGSEGV)", "`qemu-crash`"),
    ("`xen-load-devices-state` off Xen", "aborts", _UNCHECKED, "aborts", "`qemu-crash`"),
    ("`qom-list-properties` of `colo-compare` and three more", "dies", _UNCHECKED, "answers", "`qemu-crash`"),
    ("`qom-list-types` with modules of another build", _UNCHECKED, "aborts", "aborts", "`qemu-crash` warns; strict: refuses"),
)  # fmt: skip


_OWN = """## Rules of your own

Without code, in the configuration: kinds of devices that must not meet a capability or a parameter.

```toml
[[policy.combination]]              # [[vm.policy.combination]] for one VM
id = "gpu-multifd"                  # as it stands in refusals, metrics and [policy.rules]
types = ["virtio-gpu*"]             # QOM types, * and ? as in a shell; without it: whatever counts as a VFIO device
capability = "multifd"              # or parameter = "mode" and value = "cpr-reboot"
at = ["set", "plug", "start"]       # this is the default; "snapshot" is snapshot-save and snapshot-load
mode = "enforce"                    # this is the default; also warn, off
message = "{device} cannot take multifd"
fix = "migrate without multifd"     # may be left out
```

`set` is when the capability is switched on or the parameter set, `plug` when such a device is plugged in, `start` when a
migration starts in either direction, or its postcopy phase. The built-in rules about VFIO devices and capabilities are rows
of the same kind. A device's type does not show its back end: a `virtio-net-pci` is one whether a tap or vhost-vdpa is behind it.

With code, as a plug-in: a function of a `qmpguard.Machine` and a `qmpguard.Policy` that returns a `qmpguard.Problem` or
None, in an installed package that names it as an entry point of the group `qmpguard.rules`. `plugins = ["name"]` in
`[policy]` switches it on. It is judged at the same requests as the built-in rules. One that raises an exception refuses
the request as `unverified`, names itself, and ends nothing; it must not block. `examples/rules/` is a package with one."""


def markdown_table() -> str:
    """Return the table of rules as every document has it."""
    from qmpguard.policy.rules import table

    head = "| rule | standard | strict | what it does |\n|---|---|---|---|"
    return "\n".join([head, *(f"| `{i}` | {a} | {b} | {s} |" for i, a, b, s in table())])


def markdown() -> str:
    """Return docs/rules.md: the table, and every rule's documentation."""
    from qmpguard.policy.rules import documentation, table

    texts = documentation()
    parts = [_HEAD, markdown_table()]
    for identity, standard, strict, _ in table():
        parts.append(f"## `{identity}`\n\nstandard: {standard} · strict: {strict}\n\n{texts[identity]}")
    return "\n\n".join((*parts, _OWN, _hazards()))


_HEAD = """# The rules

This page is written from the code by `make docs`. What to do about a refusal is in [operations.md](operations.md).

`enforce` refuses, `warn` lets pass and logs, `off` does not look. Of a rule's own mode and the global one the weaker
counts. A command is refused when a rule fails after it that did not fail before, or that fails when a migration starts;
so what makes a VM safer always passes. Never refused and never waiting: `migrate_cancel`, `migrate-pause`,
`migrate-continue`, `migrate-recover`, `migrate` with `resume`, and a capability list that switches nothing on that a
rule looks at; in profile strict, unless they would run a program."""
