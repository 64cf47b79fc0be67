"""For tests of programs that drive QEMU: pytest fixtures with a real, a guarded and a simulated QEMU. docs/testing.md.

The fixtures are in the pytest plugin, which pytest finds by itself. What tests import is here.
"""

from qmpguard.testing.assertions import assert_refused, refusal_of
from qmpguard.testing.client import QmpSocket, qmp_client

__all__ = ["QmpSocket", "assert_refused", "qmp_client", "refusal_of"]
