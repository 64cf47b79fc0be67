"""``python -m qmpguard``, and the command ``qmpguard``: signals wait from the first moment on (`qmpguard.signals`)."""

import sys

from qmpguard.signals import TAKEN, TO_CHILD, hold

#: the commands that a signal is no end of, and what they take
HELD = {"run": TAKEN, "exec": TAKEN | TO_CHILD}


def start() -> int:
    """Run the command line."""
    if (held := HELD.get("".join(sys.argv[1:2]))) is not None:
        hold(held)
    from qmpguard.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(start())
