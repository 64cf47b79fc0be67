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
    form.add_argument("--markdown", action="store_true", help="with every rule's documentation, as in docs/rules.md")


def execute(arguments: argparse.Namespace) -> int:
    """Print the table."""
    print(_json() if arguments.json else markdown() if arguments.markdown else _text())
    return 0


def _json() -> str:
    from qmpguard.policy.rules import table

    return json.dumps([{"id": i, "standard": a, "strict": b, "summary": s} for i, a, b, s in table()], indent=2)


def _text() -> str:
    from qmpguard.policy.rules import table

    rows = [("rule", "standard", "strict", "what it does"), *table()]
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"{i:{width}}  {standard:8}  {strict:7}  {summary}" for i, standard, strict, summary in rows)


def _hazards() -> str:
    head = "| hazard | QEMU 7.2.22 | 10.0.13 | 11.1.3 | the guard |\n|---|---|---|---|---|"
    return "\n".join([_ON_HAZARDS, "", head, *(f"| {' | '.join(row)} |" for row in _HAZARDS)])


_ON_HAZARDS = """## QEMU without the guard

Seen on running QEMUs, the last time on 2026-11-26; `?`: not tried. `tests/e2e/test_hazards.py` repeats those of 7.2 and 11.1
that need no hardware. `refuses` and `accepts` are about the command that begins it."""

_UNCHECKED = "?"
#: each hazard, and its effect on each version; the last column names the rule
_HAZARDS = (
    ("`vfio-pci` and postcopy", "no check", "refuses", "refuses", "`vfio-postcopy`"),
    ("`vfio-pci` and background snapshot", "no check", "refuses", "refuses", "`vfio-background-snapshot`"),
    ("`vfio-pci` with an odd `failover_pair_id`, and either", "no check", "accepts; can kill the VM", "accepts; can kill the VM", "the same two"),
    ("a failover pair that the guest has negotiated, and postcopy", _UNCHECKED, "the guest loses its primary, and goes on", "the guest loses its primary, and goes on", "`vfio-postcopy` warns; strict: refuses"),
    ("a failover pair that the guest has negotiated, and background snapshot", _UNCHECKED, "the guest loses its primary, and goes on", "the guest loses its primary, and goes on", "`vfio-background-snapshot`"),
    ("`vfio-user-pci` and either", "no such device", "no such device", "accepts, state lost", "the same two"),
    ("a VFIO device and `x-colo`", _UNCHECKED, "accepts, stays in `device`", "accepts, stays in `device`", "`vfio-colo`"),
    ("vhost-vdpa, as a device or behind a `virtio-net`, and postcopy", _UNCHECKED, _UNCHECKED, "no check in its source", "`vdpa-postcopy`"),
    ("background snapshot, and memory that another process writes", "what was written later is in it", _UNCHECKED, "what was written later is in it", "`snapshot-foreign-dma`"),
    ("background snapshot in `prelaunch`", "aborts", "aborts", "aborts", "`snapshot-runstate`"),
    ("`snapshot-save` in mode `cpr-exec`", "no such mode", "no such mode", "concludes, holds no RAM", "`snapshot-cpr`"),
    ("`snapshot-save` with `multifd`", "dies (SIGSEGV)", _UNCHECKED, "refuses", "`snapshot-multifd`"),
    ("`snapshot-save` with `x-ignore-shared`", "concludes, holds no shared RAM", _UNCHECKED, "the same, where it is a file with a name", "`ignore-shared`"),
    ("`snapshot-save` with `vfio-user-pci`", "no such device", "no such device", "concludes, state lost", "`vfio-state-lost` warns"),
    ("`migrate` with one channel of type `cpr`, or `exec` with no `args`", "no channels", _UNCHECKED, "dies (SIGSEGV)", "`qemu-crash`"),
    ("`xen-load-devices-state` off Xen", "aborts", _UNCHECKED, "aborts", "`qemu-crash`"),
    ("`qom-list-properties` of `colo-compare` and three more", "dies", "dies, but answers `microvm-machine`", "answers", "`qemu-crash`"),
    ("`qom-list-types` with modules of another build", _UNCHECKED, "aborts", "aborts", "`qemu-crash` warns; strict: refuses"),
)  # fmt: skip


_OWN = """## Rules of your own

Without code, in the configuration: types of devices that are refused together with a capability or a parameter.

```toml
[[policy.combination]]              # [[vm.policy.combination]] for one VM
id = "gpu-multifd"                  # its name in refusals, metrics and [policy.rules]
types = ["virtio-gpu*"]             # QOM types, * and ? as in a shell; without it: every device that counts as VFIO
capability = "multifd"              # or parameter = "mode" and value = "cpr-reboot"
at = ["set", "plug", "start"]       # this is the default; "snapshot" is snapshot-save and snapshot-load
mode = "enforce"                    # this is the default; also warn, off
message = "{device} cannot take multifd"
fix = "migrate without multifd"     # may be left out
```

`set` is the moment when the capability is switched on or the parameter set, `plug` when such a device is plugged in, `start`
when a migration starts in either direction, or its postcopy phase. The built-in rules about VFIO devices and capabilities
have the same form. A device's type does not show its back end: `virtio-net-pci` is the type with a tap and with vhost-vdpa.
A network back end of type `vhost-vdpa` or `vhost-user` that the guard knows of matches by that type.

With code, as a plug-in: a function of a `qmpguard.Machine` and a `qmpguard.Policy` that returns a `qmpguard.Problem` or
None, in an installed package that names it as an entry point of the group `qmpguard.rules`. `plugins = ["name"]` in
`[policy]` switches it on. A plug-in judges the same requests as the built-in rules. If it raises an exception, the request
is refused as `unverified`, with the plug-in's name, and the guard goes on. It must not block. `examples/rules/` is an example."""


def markdown_table() -> str:
    """Return the table of rules in Markdown."""
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

This page is generated from the code by `make docs`. [operations.md](operations.md) says what to do after a refusal.

`enforce` refuses, `warn` logs and lets pass, `off` skips the rule. The effective mode is the weaker of the rule's own and
the global one. A command is refused if it would newly violate a rule. A command that starts a migration is refused if any
rule is violated, even one that was violated before. So a command that makes a VM safer always passes. These are never
refused and never wait: `migrate_cancel`, `migrate-pause`, `migrate-continue`, `migrate-recover`, `migrate` with `resume`,
and a capability list that switches on no capability that a rule names. In profile strict they are refused if they would
run a program."""
