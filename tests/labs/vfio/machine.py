"""One QEMU in the lab, with the same face as `qmpguard.demo.qemu.Qemu`: ready when entered, gone when left."""

from __future__ import annotations

import shlex
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from tests.labs.vfio.host import Lab

#: seconds for a QEMU in the guest to listen; it takes 1 to 4
START = 90
#: seconds for a QEMU in the guest to end after SIGTERM
STOP = 10


class Release(Enum):
    """The QEMUs of the lab."""

    OLD = "10.0"
    NEW = "11.1"

    @property
    def program(self) -> str:
        """Return where it is in the guest."""
        return "qemu-system-x86_64" if self is Release.OLD else "/qemu11/qemu-system-x86_64"


class LabQemu:
    """A QEMU process in the lab, with ``monitors`` QMP sockets in ``directory`` here: qmp0.sock, qmp1.sock, and so on.

    ``place`` is a folder of its own in the guest. Entering may raise LabFailed.
    """

    def __init__(
        self,
        lab: Lab,
        release: Release,
        directory: Path,
        args: Sequence[str] = (),
        *,
        monitors: int = 1,
        machine: str = "pc",
        memory: str = "64",
        display: Sequence[str] = ("-nodefaults", "-display", "none"),
    ) -> None:
        self.lab = lab
        self.place = f"/tmp/qemu{lab.fresh()}"
        self.monitors = [directory / f"qmp{i}.sock" for i in range(monitors)]
        self._ports = lab.take(monitors + 1)  # one more tells when it is ready
        self._command = [release.program, *display, "-accel", "tcg", "-M", machine, "-m", memory]
        for port in self._ports:
            self._command += ["-qmp", f"tcp:0.0.0.0:{port},server=on,wait=off"]
        self._command += args

    async def __aenter__(self) -> Self:
        for path, port in zip(self.monitors, self._ports[:-1], strict=True):
            path.unlink(missing_ok=True)
            path.symlink_to(self.lab.socket(port))
        try:
            await self.lab.run(self._start(), START + 30)
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def _start(self) -> str:
        """Return a script that starts it, and ends when a monitor greets: then the machine is complete."""
        return f"""
            mkdir -p {self.place}; cd {self.place}
            ({shlex.join(self._command)} >log 2>&1 </dev/null & echo $! >pid; wait $!; echo $? >status) &
            for i in $(seq {START * 5}); do
              [ -e status ] && break
              if exec 3<>/dev/tcp/127.0.0.1/{self._ports[-1]}; then
                while read -t {START} -u 3 line; do [[ $line == *QMP* ]] && exit 0; done; break
              fi 2>/dev/null
              sleep 0.2
            done
            sleep 1; echo "it is not ready, status: $(cat status)"; cat log; exit 1"""

    async def stop(self) -> None:
        """End it (SIGTERM, and SIGKILL if that does not do) and wait for its end."""
        await self.lab.attempt(
            f"""
            cd {self.place} || exit 0; [ -e pid ] || exit 0
            kill $(cat pid); for i in $(seq {STOP * 10}); do [ -e status ] && exit 0; sleep 0.1; done
            kill -9 $(cat pid); for i in $(seq 100); do [ -e status ] && exit 0; sleep 0.1; done"""
        )

    async def log(self) -> str:
        """Return what it has said on standard error."""
        return await self.lab.run(f"cat {self.place}/log")

    async def status(self, seconds: float = 20.0) -> int | None:
        """Return its exit status; None when it runs still after some seconds."""
        script = f"for i in $(seq {int(seconds * 5)}); do [ -e status ] && break; sleep 0.2; done"
        said = await self.lab.run(f"cd {self.place}; {script}; cat status 2>/dev/null || true", seconds + 30)
        return int(said) if said.strip() else None
