"""docs/glossary.md: words, every class of the layers policy and proxy, and every module, by their docstrings."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import qmpguard

if TYPE_CHECKING:
    from collections.abc import Iterator

#: the layers whose classes the page lists
LAYERS = ("policy", "proxy")
_PACKAGE = Path(qmpguard.__file__).parent

_HEAD = """\
# Glossary

<!-- written by `make docs`: classes and modules from their docstrings, the words from qmpguard/manual/glossary.py -->

"""
WORDS = {
    "request, reply, event, greeting": "QMP's own words. A request has a command and perhaps arguments.",
    "out-of-band": "QMP's word for a request that QEMU executes at once, also while its main loop is held.",
    "HMP": "QEMU's monitor for people. QMP can send it a line by `human-monitor-command`.",
    "client": "A program that is connected to the guard as it would be to QEMU.",
    "session": "One client's conversation with the guard.",
    "control session": "The guard's own conversation with QEMU, by which it asks its questions.",
    "link": "The one connection to QEMU. It ends when QEMU ends, and the next one is another link.",
    "window": "The requests that QEMU is sent before it has replied to the first of them.",
    "pending request": "A request of a client that has had no reply yet.",
    "operation": "The effect of a judged request, as a value with `after(machine)`.",
    "machine": "The facts about a VM that rules look at, now or after an operation.",
    "fact": "One thing that QEMU can be asked about a machine.",
    "survey": "The questions to QEMU that one verdict needs.",
    "rule": "A function that looks at a machine and returns a problem, or None.",
    "mode": "The effect of a violated rule: enforce, warn or off.",
    "profile": "The rules' modes by default: standard for mistakes, strict for attempts to evade the guard.",
    "verdict": "The result of judging one request: it may pass or it is refused, with the findings.",
    "decision": "A verdict on record, with its reference.",
    "gate": "The place where requests are judged: survey, verdict, then forwarded or refused.",
    "override": "A rule of one VM that only warns for a stated time.",
    "forecast": "The verdict on a migration if it began now.",
    "drift": "A change of the machine that did not come through the guard.",
    "stale capability": "A migration capability that the last migration has left on.",
    "hidden primary": "A VFIO device of a failover pair that QEMU keeps unplugged until the guest asks for it.",
    "heartbeat": "An out-of-band question every 10 s. It shows whether QEMU hangs.",
    "takeover": "The guard listens at the path of QEMU's own socket, which it moves into its own directory.",
    "handover": "A link that one guard process leaves in systemd's descriptor store for the next one.",
    "reload": "SIGHUP: the guard follows its configuration file anew, as a whole or not at all.",
}


def page() -> str:
    """Return the page."""
    return _HEAD + "\n".join(_lines()) + "\n"


def classes(layer: str) -> Iterator[tuple[str, str, str]]:
    """Yield the module, the name and the docstring's first paragraph of every class in a layer."""
    for path in sorted((_PACKAGE / layer).rglob("*.py")):
        module = path.relative_to(_PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                yield module, node.name, _summary(ast.get_docstring(node) or "")


def _lines() -> Iterator[str]:
    yield from ("## Words", "", "| word | meaning |", "|---|---|")
    yield from (f"| {word} | {meaning} |" for word, meaning in WORDS.items())
    for layer in LAYERS:
        yield from ("", f"## Classes of `{layer}/`", "", "| class | module | |", "|---|---|---|")
        yield from (f"| `{name}` | `{module}` | {text} |" for module, name, text in classes(layer))
    yield from ("", "## Modules", "", "| module | |", "|---|---|")
    yield from (f"| `{module}` | {text} |" for module, text in modules())


def modules() -> Iterator[tuple[str, str]]:
    """Yield every module with its docstring's first paragraph."""
    for path in sorted(_PACKAGE.rglob("*.py")):
        if text := _summary(ast.get_docstring(ast.parse(path.read_text())) or ""):
            yield path.relative_to(_PACKAGE).as_posix(), text


def _summary(docstring: str) -> str:
    """Return the first paragraph of a docstring, in Markdown."""
    return " ".join(docstring.partition("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")
