"""Migrate a VM: `python migrate_vm.py SOCKET URI`. Exit code 0: migrated; 1: not, and the VM runs on at the source."""

from __future__ import annotations

import json
import socket
import sys
import time


class NotMigratedError(Exception):
    """QEMU or its guard has refused the migration, it has failed, or QEMU is gone. The VM was not migrated."""


class Monitor:
    """A QMP connection that is negotiated."""

    def __init__(self, path: str, timeout: float = 10.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(path)
            self._file = self._socket.makefile("rb")
            self._read()  # the greeting
            self.execute("qmp_capabilities")
        except OSError as error:
            raise NotMigratedError(f"no QEMU answers at {path}: {error}") from error

    def execute(self, command: str, **arguments: object) -> object:
        """Return what a command returns. Raises `NotMigratedError`."""
        try:
            self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
            while "event" in (message := self._read()):
                pass
        except OSError as error:
            raise NotMigratedError(f"QEMU did not answer {command}: {error}") from error
        if "error" in message:
            raise NotMigratedError(message["error"]["desc"])
        return message["return"]

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()

    def _read(self) -> dict[str, dict[str, str]]:
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("the connection was closed")
        message: dict[str, dict[str, str]] = json.loads(line)
        return message


def migrate(path: str, uri: str, *, postcopy: bool = False, timeout: float = 60.0) -> None:
    """Migrate the VM whose monitor is at a path. Raises `NotMigratedError` with the reason."""
    monitor = Monitor(path)
    try:
        if postcopy:
            monitor.execute("migrate-set-capabilities", capabilities=[{"capability": "postcopy-ram", "state": True}])
        monitor.execute("migrate", uri=uri)
        _wait(monitor, time.monotonic() + timeout)
    finally:
        monitor.close()


def _wait(monitor: Monitor, deadline: float) -> None:
    while time.monotonic() < deadline:
        answer = monitor.execute("query-migrate")
        status = answer.get("status") if isinstance(answer, dict) else None
        if status == "completed":
            return
        if status in ("failed", "cancelled"):
            raise NotMigratedError(f"the migration has {status}: {answer.get('error-desc', 'no reason given')}")
        time.sleep(0.05)
    raise NotMigratedError("the migration takes too long")


if __name__ == "__main__":
    try:
        migrate(*sys.argv[1:3])
    except NotMigratedError as reason:
        sys.exit(f"not migrated: {reason}")
