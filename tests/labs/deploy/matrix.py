"""The README's two commands on new machines: `make demo` and `make test` in bare Debians, as root and as a user.

``python -m tests.labs.deploy.matrix [SUITE...]``. Each machine is a chroot with python3, git, make and sudo, without
any cache. It asks the mirror and the index that this machine's own apt and pip ask. It needs root,
mmdebstrap and the network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from qmpguard.demo.lab import _mirror
from tests.labs.deploy.stage import PYTHONS, ROOT, UNPACK, run

#: what a new machine has beside Debian's minimum
PACKAGES = "python3,git,make,sudo,ca-certificates"
COMMANDS = ("make demo", "make test")
USERS = ("root", "newcomer")
#: seconds for one command; `make test` takes three minutes, and its packages two
COMMAND = 3600.0
#: this machine's certificates and pip's settings, which a new machine of the same network has
SHARED = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")
#: its own /dev, which mmdebstrap has made: this machine's may be odd
_MOUNTS = (
    'mount -t proc proc "$1/proc" && mount -t sysfs -o ro sysfs "$1/sys" && mount -t tmpfs tmpfs "$1/dev/shm" && '
    'mount -t devpts -o newinstance,ptmxmode=0666 devpts "$1/dev/pts"'
)
_ENTER = f'{_MOUNTS} && exec chroot "$1" su - "$2" -c "$3"'


def main(suites: list[str]) -> int:
    """Try every command on every machine; print a line for each. Return 0 when all are good."""
    good = True
    for suite in suites or PYTHONS:
        for user in USERS:
            with tempfile.TemporaryDirectory(prefix="qmpguard-matrix-") as folder:
                machine = unpacked(suite, Path(folder, "root"))
                tries = [tried(machine, suite, user, command) for command in COMMANDS]  # each, also after a failure
                good &= all(tries)
    return 0 if good else 1


def unpacked(suite: str, machine: Path, packages: str = PACKAGES) -> Path:
    """Return a new machine with two users and this tree as it was last committed."""
    mirror = _mirror()
    sources = [f"deb {mirror} {suite} main"]
    run(
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        f"--include={packages}",
        suite,
        str(machine),
        *sources,
        limit=UNPACK,
    )
    (machine / "etc/apt/apt.conf.d/90network").write_text(run("apt-config", "dump", "Acquire", limit=60.0))
    for path in filter(os.path.exists, SHARED):
        shutil.copy(path, machine / path.lstrip("/"))
    shutil.copy("/etc/resolv.conf", machine / "etc/resolv.conf")
    run("chroot", str(machine), "useradd", "--create-home", "--shell", "/bin/bash", USERS[1], limit=60.0)
    (machine / "etc/sudoers.d/newcomer").write_text(f"{USERS[1]} ALL=(ALL) NOPASSWD: ALL\n")
    for user, home in zip(USERS, ("root", "home/newcomer"), strict=True):
        run("git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(machine / home / "qmpguard"), limit=60.0)
        run("chroot", str(machine), "chown", "-R", user, f"/{home}/qmpguard", limit=60.0)
    return machine


def tried(machine: Path, suite: str, user: str, command: str) -> bool:
    """Run a command in a machine, print how it went, and return whether it was good and showed no traceback."""
    settings = " ".join(f"{name}={value}" for name, value in os.environ.items() if name.startswith("PIP_"))
    script = f"cd qmpguard && {settings} {command}"
    begun = time.monotonic()
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _ENTER, "sh", str(machine), user, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        timeout=COMMAND,
        check=False,
    )
    good = done.returncode == 0 and "Traceback" not in done.stdout
    print(
        f"{suite:9} {user:9} {command:10} {time.monotonic() - begun:5.0f} s  {'good' if good else 'FAILED'}", flush=True
    )
    if not good:
        print(*(f"    {line}" for line in done.stdout.splitlines()[-40:]), sep="\n", flush=True)
    return good


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
