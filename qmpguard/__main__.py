"""``python -m qmpguard``, and the command ``qmpguard``. Signals are blocked first of all (`qmpguard.signals`)."""

import sys

from qmpguard.signals import HANDLED, TO_CHILD, block_signals

#: the signals that the long-running commands handle
BLOCKED = {"run": HANDLED, "exec": HANDLED | TO_CHILD}


def start() -> int:
    """Run the command line."""
    if (blocked := BLOCKED.get("".join(sys.argv[1:2]))) is not None:
        block_signals(blocked)
    from qmpguard.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(start())
