"""qmpguard: a QMP proxy that keeps VFIO devices away from postcopy migration and background snapshot.

The terms used throughout: request, reply, event, greeting (QMP's own) · *session*: one client's connection · *link*:
the one connection to QEMU · *hub*: routes between the sessions of one VM and its link · *operation*: the effect of an
intercepted request, a value with ``after(machine)`` · *machine*: the facts that the rules read · *survey*: the queries
for these facts · *rule*: a condition that must not be violated · *verdict*: allow or refuse, with findings · *gate*:
survey, judge, forward or refuse.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from qmpguard.version import __version__

if TYPE_CHECKING:
    from qmpguard.daemon.guard import Guard, guarding
    from qmpguard.policy.device import Device
    from qmpguard.policy.machine import Machine
    from qmpguard.policy.migration import Start
    from qmpguard.policy.policy import Mode, Policy, Profile
    from qmpguard.policy.verdict import Problem
    from qmpguard.remote.report import Report, check

__all__ = [
    "Device",
    "Guard",
    "Machine",
    "Mode",
    "Policy",
    "Problem",
    "Profile",
    "Report",
    "Start",
    "__version__",
    "check",
    "guarding",
]

#: the modules of the public names; each is imported on first use, so that `qmpguard --help` stays quick
_HOMES = {
    "Device": "qmpguard.policy.device",
    "Machine": "qmpguard.policy.machine",
    "Start": "qmpguard.policy.migration",
    "Problem": "qmpguard.policy.verdict",
    "Guard": "qmpguard.daemon.guard",
    "guarding": "qmpguard.daemon.guard",
    "Mode": "qmpguard.policy.policy",
    "Policy": "qmpguard.policy.policy",
    "Profile": "qmpguard.policy.policy",
    "Report": "qmpguard.remote.report",
    "check": "qmpguard.remote.report",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'qmpguard' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    return value
