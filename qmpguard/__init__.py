"""qmpguard: a QMP proxy that keeps VFIO devices away from postcopy migration and background snapshot.

The words used throughout: request, reply, event, greeting (QMP's own) · *session*: one client's conversation · *link*:
the one connection to QEMU · *hub*: the sessions of one VM on one link · *operation*: what an intercepted request
would do, as a value with ``after(machine)`` · *machine*: the facts that the rules speak about · *survey*: asking QEMU
for those facts · *rule*: what must never be · *verdict*: allow or refuse, with findings · *gate*: survey, judge,
forward or refuse.
"""

from qmpguard.version import __version__

__all__ = ["__version__"]
