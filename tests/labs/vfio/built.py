"""The lab's Debian, built once and kept in the user's cache: kernel, QEMU 10.0, mtty and two initial RAM disks.

Nothing is named here that the machine does not use already: its own apt knows the mirror. mmdebstrap unpacks as root,
or as a user where the kernel gives user namespaces.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from qmpguard.demo import lab
from qmpguard.demo.lab import LabUnavailable

#: seconds for unpacking the Debian and building mtty; it takes some 100 on two cores
BUILD = 1800.0
#: seconds after which a Debian that no lab has used any more is removed, when a newer one is built
UNUSED = 86400.0
#: bytes that the build needs, and leaves half of
ROOM = 3 << 30
SUITE = "trixie"
GUEST = Path(__file__).with_name("guest")
PACKAGES = (
    *("qemu-system-x86", "qemu-utils", "linux-image-amd64", "linux-headers-amd64", "linux-source-6.12"),
    *("busybox-static", "cpio", "gcc", "iproute2", "kmod", "make", "socat", "xz-utils"),
)


def debian() -> Path:
    """Return the folder of the lab's Debian, built if it is not there yet; raises LabUnavailable with one line.

    ``root`` in it is the Debian, and ``state`` is for what is made with it later.
    """
    home = cache(f"vfio-lab-{stamp()}")
    if not home.exists():
        possible(home.parent)
        mirror = lab._mirror()
        print("vfio-lab: building the lab's Debian (two minutes, 1 GB in the user's cache)", file=sys.stderr)
        build(home, mirror)
    os.utime(home)  # it is in use
    return home


def qemu11() -> Path:
    """Return the folder of QEMU 11.1 with its own loader and libraries; raises LabUnavailable with one line."""
    lab.fetch()
    home = lab._home()
    if not (home / "root").is_dir():  # the system's own QEMU would do for the demo; here it must run in the guest
        lab._install(home)
    return home


def stamp() -> str:
    """Return what changes when the lab is to be built anew."""
    read = b"".join(path.read_bytes() for path in sorted(GUEST.iterdir()))
    return hashlib.sha256(read + repr((SUITE, PACKAGES)).encode()).hexdigest()[:12]


def cache(name: str) -> Path:
    """Return a place in the user's cache."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "qmpguard", name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabUnavailable(f"the lab cannot be kept: {error}") from error
    return path


def possible(folder: Path) -> None:
    """Raise LabUnavailable with one line where the Debian cannot be built."""
    if platform.machine() != "x86_64":
        raise LabUnavailable(f"the lab is made of x86-64 programs, and this is {platform.machine()}")
    if not shutil.which("mmdebstrap"):
        raise LabUnavailable("mmdebstrap is not here, so the lab's Debian cannot be unpacked: `make packages` gets it")
    if shutil.disk_usage(folder).free < ROOM:
        raise LabUnavailable(f"the lab needs {ROOM >> 30} GB in {folder}")


def build(home: Path, mirror: str) -> None:
    """Make the Debian in a place of its own, and move it to ``home`` when it is complete."""
    for old in home.parent.glob("vfio-lab-*"):
        if time.time() - old.stat().st_mtime > UNUSED:
            shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix="vfio-build-", ignore_cleanup_errors=True) as place:
        new = Path(place, home.name)
        (new / "state").mkdir(parents=True)
        unpack(new / "root", mirror)
        new.rename(home)


def unpack(root: Path, mirror: str) -> None:
    """Unpack the Debian and run guest/build.sh in it."""
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    command += [f"--customize-hook=copy-in {GUEST} /", '--customize-hook=chroot "$1" bash /guest/build.sh']
    command += [SUITE, str(root), f"deb {mirror} {SUITE} main"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=BUILD,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabUnavailable(f"the lab's Debian: {error}") from error
    if done.returncode:
        raise LabUnavailable(f"the lab's Debian cannot be unpacked: {lab._reason(done.stderr)}")
