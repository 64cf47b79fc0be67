"""docs/api.md: every public name of the package with its docstring. Change the docstrings, not the page."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING

import qmpguard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

RULE = """\
A plug-in is a function of a `Machine` and a `Policy` that returns a `Problem` or None: see [rules.md](rules.md).
Reading a fact that QEMU was not asked for raises an exception that tells the guard what to ask. Let it pass: the
function is called again when the fact is known."""
ERROR = "Their texts are meant for people. `exit_code` is the exit code of a command that ends with the error."
#: the public names in the order of the page; what is said of each group
GROUPS = (
    ("A guard in a program", "", ("guarding", "Guard")),
    ("A question to a live VM", "", ("check", "Report", "Forecast", "Passes", "QemuCheck", "Refuses")),
    ("A policy", "", ("Policy", "Mode", "Profile")),
    ("Decisions", "", ("Decision", "Outcome", "Verdict", "Finding", "Problem", "Peer")),
    (
        "The state of a VM",
        "",
        ("Snapshot", "LinkState", "QemuState", "Pulse", "Judging", "Facts", "Device", "Migration", "Progress"),
    ),
    ("Rules of your own", RULE, ("Machine", "Start")),
    ("Errors", ERROR, ("QmpguardError", "UsageError", "ConfigError", "UnavailableError")),
)
#: names that annotations use beside the public ones and those of the language
_PLAIN = frozenset({"Callable", "Iterable", "Mapping", "None", "Parameters", "Value"})

#: in place of a default where there is none
_NONE = inspect.Parameter.empty

_HEAD = """\
# The Python interface

<!-- written by `make docs` from the docstrings of the public names -->

All of it is typed, and imported from `qmpguard` itself. Each name is loaded when it is first used. Any other module of
the package may change in any version. [stability.md](stability.md) says what stays, and for how long.

```python
import qmpguard

async with qmpguard.guarding("qemu.sock", "guard.sock") as guard:
    ...  # your client connects to guard.sock
    assert guard.refused == 0

report = await qmpguard.check("guard.sock")
```

Fields that are not listed here are not part of the interface. `Value` is a value of JSON, and `Parameters` a mapping of
migration parameters to such values.
"""


def page() -> str:
    """Return the page."""
    return "\n".join([_HEAD, *_lines()])


def _lines() -> Iterator[str]:
    for title, text, names in GROUPS:
        yield from (f"## {title}", "", *((text, "") if text else ()))
        for name in names:
            yield from _entry(name, getattr(qmpguard, name))


def _entry(name: str, value: type | Callable[..., object]) -> Iterator[str]:
    yield from (f"### `{name}`", "")
    if isinstance(value, type):
        yield from (_doc(value), "")
        yield from _block(_fields(value))
        yield from _table(list(_members(value)))
    else:
        yield from _block([f"{_keyword(value)} {name}{_signature(value)}"])
        yield from (_doc(value), "")


def _block(lines: Iterable[str]) -> Iterator[str]:
    if code := list(lines):
        yield from ("```python", *code, "```", "")


def _table(rows: list[tuple[str, str]]) -> Iterator[str]:
    if rows:
        yield from ("| member | |", "|---|---|")
        yield from (f"| `{code}` | {' '.join(text.split())} |".replace(" | None", " \\| None") for code, text in rows)
        yield ""


def _keyword(function: Callable[..., object]) -> str:
    """Return how a function is used: awaited, or in a block."""
    return "async with" if inspect.isasyncgenfunction(inspect.unwrap(function)) else "await"


def _fields(kind: type) -> Iterator[str]:
    """Yield the values of an enumeration, the fields of a dataclass, the exit code of an error."""
    if issubclass(kind, Enum):
        comments = _comments(kind)
        yield from (f"{member.name} = {_value(member.value)}{comments.get(member.name, '')}" for member in kind)
    elif is_dataclass(kind):
        comments = _comments(kind)
        yield from (f"{_field(f)}{comments.get(f.name, '')}" for f in fields(kind) if _is_public(str(f.type)))
    elif issubclass(kind, qmpguard.QmpguardError):
        yield f"exit_code = {kind.exit_code}"


def _field(field: Field[object]) -> str:
    return f"{field.name}: {field.type}{_default(field.default if field.default is not MISSING else _NONE)}"


def _members(kind: type) -> Iterator[tuple[str, str]]:
    """Yield the properties and methods of a class, in its order."""
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            assert member.fget is not None
            yield f"{name}: {inspect.signature(member.fget).return_annotation}", _doc(member)
        elif isinstance(member, classmethod) or inspect.isfunction(member):
            yield f"{name}{_signature(getattr(kind, name))}", _doc(member)


def _signature(function: Callable[..., object]) -> str:
    """Return the arguments of a function and what it returns."""
    signature = inspect.signature(function)
    given: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in given:
            given.append("*")
        if parameter.name != "self":
            given.append(f"{parameter.name}: {parameter.annotation}{_default(parameter.default)}")
    returned = re.sub(r"^AsyncGenerator\[(\w+)\]$", r"as \1", str(signature.return_annotation))
    return f"({', '.join(given)}) {returned if returned.startswith('as ') else f'-> {returned}'}"


def _default(value: object) -> str:
    if inspect.isfunction(value):
        return " = ..."
    return "" if value is _NONE else f" = {_value(value)}"


def _value(value: object) -> str:
    """Return a default as it is written in source."""
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if is_dataclass(value):
        return f"{type(value).__name__}(...)"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _is_public(annotation: str) -> bool:
    """Say whether an annotation uses public names only."""
    return set(re.findall(r"\b[A-Z]\w*", annotation)) <= _PLAIN | set(qmpguard.__all__)


def _comments(kind: type) -> dict[str, str]:
    """Return the comments behind the fields of a dataclass, or the members of an enumeration."""
    found = re.findall(r"^    (\w+)(?:: | = )[^#\n]+#(?! noqa)\s*(.+)$", inspect.getsource(kind), re.MULTILINE)
    return {name: f"  # {text}" for name, text in found}


def _doc(value: object) -> str:
    """Return a docstring in Markdown."""
    return (inspect.getdoc(value) or "").replace("``", "`")
