"""``python -m qmpguard``, and the command ``qmpguard``. Signals are blocked first of all (`qmpguard.signals`)."""

import sys

from qmpguard.signals import HANDLED, TO_CHILD, block_signals

#: the signals that the long-running commands handle
BLOCKED = {"run": HANDLED, "exec": HANDLED | TO_CHILD}


def import_asyncio() -> None:
    """Import asyncio without TLS, which no socket of the guard has: OpenSSL takes 4 MiB and a twentieth of the start.

    asyncio works without ``ssl``, as in a Python that was built without OpenSSL. Whatever needs ``ssl`` later (the
    exporter of OpenTelemetry) imports it for itself.
    """
    if "ssl" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment]  # makes its import fail
    try:
        import asyncio  # noqa: F401
    finally:
        del sys.modules["ssl"]


def start() -> int:
    """Run the command line."""
    if (blocked := BLOCKED.get("".join(sys.argv[1:2]))) is not None:
        block_signals(blocked)
        import_asyncio()
    from qmpguard.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(start())
