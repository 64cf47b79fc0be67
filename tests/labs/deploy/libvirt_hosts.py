"""Hosts for libvirt: a root over a Debian that is shared, with libvirtd in it, in the namespaces of who starts them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.labs.deploy.stage import run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: seconds for one command of virsh, and for anything that is waited for
PATIENCE = 180.0
#: what a host sees of the two hosts' common storage, and of the other host's libvirtd
SHARED, OTHER = "/shared", "/mnt"
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/root"}
#: what libvirtd is told of itself: two hosts on one machine must differ
CONFIG = 'host_uuid = "{uuid}"\nlog_outputs = "2:file:/var/log/libvirt/libvirtd.log"\n'
#: Starts a host's daemons. Their root is that of their mount namespace, no chroot: libvirtd makes /dev for a QEMU from
#: within that one's namespace, and would make it in this machine's.
START = """\
cd "$1" && hostname "$2" && mount --make-rprivate / && pivot_root . . && umount -l . && cd / &&
mkdir -p /run/libvirt && { [ -e /run/virtlogd.pid ] || virtlogd -d; } && exec libvirtd -d
"""
#: so that QEMU may use userfaultfd whatever vm.unprivileged_userfaultfd is
AS_ROOT = 'user = "root"\ngroup = "root"\nclear_emulator_capabilities = 0\n'


class Said(NamedTuple):
    """What a command has answered."""

    status: int
    output: str
    errors: str


class Host:
    """A host by its name, with what is laid over its Debian. ``number`` tells hosts apart."""

    def __init__(self, name: str, number: int, place: Path) -> None:
        self.name = name
        self._number = number
        self._place = place
        self.root = place / "root"

    def build(self, base: Path, over: Path, shared: Path) -> None:
        """Put its file systems together."""
        self._place.mkdir()
        _mount("-t", "tmpfs", "tmpfs", self._place)
        for part in ("upper", "work", "root"):
            (self._place / part).mkdir()
        layers = f"lowerdir={over}:{base},upperdir={self._place}/upper,workdir={self._place}/work"
        _mount("-t", "overlay", "-o", layers, "overlay", self.root)
        _mount("--bind", self.root / "dev", self.root / "dev")  # libvirt copies only what is mounted there
        _mount("-t", "proc", "proc", self.root / "proc")
        _mount("-t", "sysfs", "-o", "ro", "sysfs", self.root / "sys")
        _mount("-t", "tmpfs", "tmpfs", self.root / "run")
        _mount("-t", "tmpfs", "tmpfs", self.root / "dev/shm")
        _mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666", "devpts", self.root / "dev/pts")
        (self.root / SHARED.lstrip("/")).mkdir()
        _mount("--bind", shared, self.root / SHARED.lstrip("/"))
        self.say("install", "-d", "-o", "libvirt-qemu", "-g", "kvm", "/var/log/qmpguard")  # as docs/libvirt.md says
        uuid = f"11111111-2222-3333-4444-{self._number:012}"
        self.write("/etc/libvirt/libvirtd.conf", CONFIG.format(uuid=uuid))

    def start(self, before: str = "") -> None:
        """Start its daemons, with a host name of their own: libvirtd refuses to migrate to the host that it is on.

        ``before``: what stands first in their PATH.
        """
        environment = [f"{key}={value}" for key, value in ENVIRONMENT.items()]
        environment[0] = environment[0].replace("PATH=", f"PATH={before}")
        script = ("sh", "-c", START, "sh", str(self.root), self.name)
        run("env", "-i", *environment, "unshare", "--mount", "--uts", *script, limit=PATIENCE)
        until((self.root / "run/libvirt/libvirt-sock").is_socket)

    def stop(self) -> None:
        """Stop libvirtd; its QEMUs go on."""
        pid = int((self.root / "run/libvirtd.pid").read_text())
        os.kill(pid, 15)
        until(lambda: not alive(pid))

    def end(self) -> None:
        """End its domains and its daemons, and take its file systems apart."""
        for domain in self.virsh("list --name").output.split():
            self.virsh(["destroy", domain])
        for daemon in ("libvirtd", "virtlogd"):
            with suppress(FileNotFoundError, ProcessLookupError):
                os.kill(int((self.root / f"run/{daemon}.pid").read_text()), 15)
        run("umount", "--recursive", "--lazy", str(self._place), limit=PATIENCE)

    def see(self, other: Host) -> None:
        """Let virsh here reach another host's libvirtd."""
        _mount("--bind", other.root / "run/libvirt", self.root / OTHER.lstrip("/"))

    def write(self, path: str, text: str) -> None:
        """Write a file."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def read(self, path: str) -> str:
        """Read a file."""
        return (self.root / path.lstrip("/")).read_text(errors="replace")

    def virsh(self, words: str | Sequence[str]) -> Said:
        """Say something to its libvirtd."""
        words = shlex.split(words) if isinstance(words, str) else words
        return self.say("virsh", *words)

    def say(self, *command: str) -> Said:
        """Run a program in it."""
        done = subprocess.run(
            ("chroot", str(self.root), *command),
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=PATIENCE,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def qemu(self, domain: str) -> int:
        """The process that libvirt knows a domain by."""
        return int(self.read(f"/run/libvirt/qemu/{domain}.pid"))


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        return re.search(r"^State:\s*[ZX]", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE) is None
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds that nothing announces."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def _mount(*arguments: str | Path) -> None:
    run("mount", *map(str, arguments), limit=PATIENCE)
