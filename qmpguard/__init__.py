"""qmpguard: a QMP proxy that keeps VFIO devices away from postcopy migration and background snapshot.

Programs import from here the names that docs/api.md lists; any other module may change. docs/architecture.md leads
through the code, docs/glossary.md explains its words.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from qmpguard.version import __version__

if TYPE_CHECKING:
    from qmpguard.embedding import Guard, guarding
    from qmpguard.errors import ConfigError, QmpguardError, UnavailableError, UsageError
    from qmpguard.policy.device import Device
    from qmpguard.policy.facts import Facts
    from qmpguard.policy.forecast import Forecast, Passes
    from qmpguard.policy.machine import Machine
    from qmpguard.policy.migration import Migration, Progress, Start
    from qmpguard.policy.mode import Mode, Profile
    from qmpguard.policy.policy import Policy
    from qmpguard.policy.problem import Finding, Problem
    from qmpguard.policy.qemu_check import QemuCheck, Refuses
    from qmpguard.policy.verdict import Verdict
    from qmpguard.proxy.state.snapshot import Judging, LinkState, Pulse, QemuState, Snapshot
    from qmpguard.record import Decision, Outcome, Peer
    from qmpguard.remote.report import Report, check

__all__ = [
    "ConfigError",
    "Decision",
    "Device",
    "Facts",
    "Finding",
    "Forecast",
    "Guard",
    "Judging",
    "LinkState",
    "Machine",
    "Migration",
    "Mode",
    "Outcome",
    "Passes",
    "Peer",
    "Policy",
    "Problem",
    "Profile",
    "Progress",
    "Pulse",
    "QemuCheck",
    "QemuState",
    "QmpguardError",
    "Refuses",
    "Report",
    "Snapshot",
    "Start",
    "UnavailableError",
    "UsageError",
    "Verdict",
    "__version__",
    "check",
    "guarding",
]

#: the modules of the public names; each is imported on first use, so that `qmpguard --help` stays quick
_MODULES = {
    "embedding": ("Guard", "guarding"),
    "errors": ("ConfigError", "QmpguardError", "UnavailableError", "UsageError"),
    "policy.device": ("Device",),
    "policy.facts": ("Facts",),
    "policy.forecast": ("Forecast", "Passes"),
    "policy.machine": ("Machine",),
    "policy.migration": ("Migration", "Progress", "Start"),
    "policy.policy": ("Mode", "Policy", "Profile"),
    "policy.qemu_check": ("QemuCheck", "Refuses"),
    "policy.verdict": ("Finding", "Problem", "Verdict"),
    "proxy.state.snapshot": ("Judging", "LinkState", "Pulse", "QemuState", "Snapshot"),
    "record": ("Decision", "Outcome", "Peer"),
    "remote.report": ("Report", "check"),
}
_HOMES = {name: f"qmpguard.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'qmpguard' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
