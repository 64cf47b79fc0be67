"""What can go wrong, named by whose fault it is.

::

    QmpguardError
    ├── UsageError         the command line or an address cannot be read     (exit 2)
    ├── ConfigError        a configuration cannot be used                    (exit 78)
    └── UnavailableError   no such socket, or nothing answers there          (exit 69)
        └── LinkDown       QEMU went away while a command was under way

Bad input from a client is no exception: it is a value that is answered.
"""

from __future__ import annotations


class QmpguardError(Exception):
    """An error whose text is meant for the person who runs qmpguard."""

    exit_code = 1


class UsageError(QmpguardError):
    """The command line, or an address on it, cannot be read."""

    exit_code = 2


class ConfigError(QmpguardError):
    """A configuration cannot be used."""

    exit_code = 78


class UnavailableError(QmpguardError):
    """There is no such socket, or nothing answers there."""

    exit_code = 69


class LinkDown(UnavailableError):  # noqa: N818  -- the state, named as the log names it
    """QEMU went away while a command was under way."""
