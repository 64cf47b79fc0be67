"""The errors, by their cause.

::

    QmpguardError
    ├── UsageError         the command line or an address is invalid         (exit 2)
    ├── ConfigError        a configuration cannot be used                    (exit 78)
    └── UnavailableError   no such socket, or no answer there                (exit 69)

Invalid input from a client is not an exception: it is a value that is answered.
"""

from __future__ import annotations


class QmpguardError(Exception):
    """An error whose text is for the user of qmpguard."""

    exit_code = 1


class UsageError(QmpguardError):
    """The command line, or an address on it, is invalid."""

    exit_code = 2


class ConfigError(QmpguardError):
    """A configuration cannot be used."""

    exit_code = 78


class UnavailableError(QmpguardError):
    """There is no such socket, or no answer there."""

    exit_code = 69
