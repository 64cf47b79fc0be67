"""The QEMUs for the demo and the tests: which ones this machine has, and how to install the one with a VFIO device.

`vfio-user-pci` came with QEMU 10.1; `fetch` unpacks QEMU 11.1 from Debian's trixie-backports into the user's cache,
installs nothing, and needs no privilege: mmdebstrap in its chrootless mode runs no code of the packages.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

#: seconds for a QEMU to say its version or the options of a device
ASK = 20.0
#: seconds for downloading (some 60 MB) and unpacking; it takes 8 on a fast line
FETCH = 1800.0

_SUITE = "trixie"
_PREFERENCES = f"Package: qemu* seabios ipxe*\nPin: release n={_SUITE}-backports\nPin-Priority: 900\n"

# This loader and these libraries let it run on any x86-64 Linux. These modules come before those that another QEMU
# may have installed at the built-in path.
_LAUNCHER = """\
#!/bin/sh
root=$(dirname "$(realpath "$0")")/root
lib=$root/usr/lib/x86_64-linux-gnu
QEMU_MODULE_DIR=$lib/qemu exec "$lib/ld-linux-x86-64.so.2" --library-path "$lib" \\
  "$root/usr/bin/qemu-system-x86_64" -L "$root/usr/share/seabios" -L "$root/usr/share/qemu" "$@"
"""


#: the system call's number (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h)
_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
#: how to allow it to ordinary users, until the machine restarts
_ALLOW = "`sysctl vm.unprivileged_userfaultfd=1` allows it"


class LabUnavailable(RuntimeError):  # noqa: N818 - a state of the machine, not a fault
    """A QEMU that the demo or a test needs is missing; the text is one line that says how to install it."""


def system_qemu() -> Path:
    """Return the system's qemu-system-x86_64, or the one that QMPGUARD_QEMU_BINARY names; raises LabUnavailable."""
    if found := _named_by("QMPGUARD_QEMU_BINARY") or _on_path():
        return found
    raise LabUnavailable("qemu-system-x86_64 is not on PATH: `make lab` installs it (Debian: qemu-system-x86)")


def vfio_qemu() -> Path:
    """Return a QEMU that has `vfio-user-pci`: QMPGUARD_QEMU11_BINARY, the fetched one or the system's own.

    Raises LabUnavailable when there is none.
    """
    if found := _named_by("QMPGUARD_QEMU11_BINARY") or _fetched() or _capable(_on_path()):
        return found
    raise LabUnavailable("no QEMU 10.1 or later with vfio-user-pci here: `make lab` gets QEMU 11.1")


def fetch() -> Path:
    """Return a QEMU with `vfio-user-pci`, after unpacking QEMU 11.1 if there was none. May run twice at the same time.

    Raises LabUnavailable, with the reason.
    """
    try:
        return vfio_qemu()
    except LabUnavailable:
        if "QMPGUARD_QEMU11_BINARY" in os.environ:
            raise
    try:
        _install(_home())
    except OSError as error:
        raise LabUnavailable(f"QEMU 11.1 cannot be kept: {error}") from error
    return vfio_qemu()


def userfaultfd() -> None:
    """Raise LabUnavailable unless QEMU may use userfaultfd here, which postcopy and background snapshots need."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(_USERFAULTFD.get(platform.machine(), -1), os.O_CLOEXEC)
    if descriptor >= 0:
        os.close(descriptor)
        return
    reason = os.strerror(ctypes.get_errno())
    helps = "this container or kernel forbids it" if os.geteuid() == 0 else f"as root, {_ALLOW}"
    raise LabUnavailable(f"postcopy and background snapshots need userfaultfd ({reason}): {helps}")


def version(binary: Path) -> str:
    """Return the first line that a QEMU prints for --version; raises LabUnavailable if it does not run."""
    return _run([str(binary), "--version"], limit=ASK).partition("\n")[0]


def _home() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "qmpguard", "qemu-11.1")


def _named_by(variable: str) -> Path | None:
    if (name := os.environ.get(variable)) is None:
        return None
    if found := shutil.which(name):
        return Path(found)
    raise LabUnavailable(f"{variable}={name} is not a program: correct it, or unset it and run `make lab`")


def _on_path() -> Path | None:
    found = shutil.which("qemu-system-x86_64")
    return Path(found) if found else None


def _fetched() -> Path | None:
    launcher = _home() / "qemu-system-x86_64"
    return launcher if launcher.exists() else None


def _capable(binary: Path | None) -> Path | None:
    """Return the binary if it has the device. Only this device is queried: a full list would load every module."""
    try:
        return binary if binary and _run([str(binary), "-device", "vfio-user-pci,help"], limit=ASK) else None
    except LabUnavailable:
        return None


def _install(home: Path) -> None:
    """Create the folder at a temporary path and move it to ``home`` when it is complete."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix="fetch-") as folder:
        new = Path(folder, home.name)
        _unpack(new)
        try:
            new.rename(home)
        except OSError:
            if not _fetched():  # else another process was faster
                raise


def _unpack(home: Path) -> None:
    if platform.machine() != "x86_64":
        raise LabUnavailable(f"QEMU 11.1 can be unpacked on x86-64 only, and this is {platform.machine()}")
    mirror = _mirror()
    home.mkdir()
    # a shell command; mmdebstrap passes the new root as $1
    prefer = (
        f'mkdir -p "$1/etc/apt/preferences.d" && printf %s {shlex.quote(_PREFERENCES)} >"$1/etc/apt/preferences.d/qemu"'
    )
    command = [_tool("mmdebstrap"), "--mode=chrootless", "--variant=extract", "--include=qemu-system-x86"]
    command += ["--skip=check/chrootless"]  # Debian 13's warns root of packages' code; "extract" runs none
    command += [f"--setup-hook={prefer}", _SUITE, str(home / "root")]
    command += [f"deb {mirror} {suite} main" for suite in (_SUITE, f"{_SUITE}-backports")]
    _run(command, limit=FETCH)
    launcher = home / "qemu-system-x86_64"
    launcher.write_text(_LAUNCHER)
    launcher.chmod(0o755)
    if not _capable(launcher):
        raise LabUnavailable(f"the QEMU in {_SUITE}-backports does not run here or has no vfio-user-pci")


def _mirror() -> str:
    """Return the Debian mirror that apt uses."""
    answer = _run([_tool("apt-get"), "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"], limit=ASK)
    for uri in answer.split():
        if re.search(r"/debian(\.list)?/?$", uri):  # a list: apt-transport-mirror(1)
            return uri
    raise LabUnavailable("apt on this machine has no Debian mirror configured, so QEMU 11.1 cannot be downloaded")


def _tool(name: str) -> str:
    if found := shutil.which(name):
        return found
    raise LabUnavailable(f"{name} is not installed, so QEMU 11.1 cannot be unpacked: on Debian, `make lab` installs it")


def _run(command: list[str], *, limit: float) -> str:
    """Return the standard output of a program; raises LabUnavailable with the reason if it fails."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and no argument comes from outside this machine
            command,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=limit,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise LabUnavailable(f"{name} failed: {_reason(str(error.stderr))}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabUnavailable(f"{name}: {error}") from error
    return done.stdout


def _reason(output: str) -> str:
    """Return the first line that apt or mmdebstrap marks as an error, or else the last line."""
    lines = output.strip().splitlines() or ["no reason given"]
    return next((line for line in lines if line.startswith("E: ")), lines[-1])


def _fetch() -> int:
    try:
        vfio_qemu()
    except LabUnavailable:
        print("lab: unpacking QEMU 11.1 (some seconds, 173 MB)", file=sys.stderr)
    try:
        fetch()
    except LabUnavailable as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


def _userfaultfd() -> int:
    try:
        userfaultfd()
    except LabUnavailable as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


def _show() -> int:
    missing = 0
    for what, find in (("system", system_qemu), ("with VFIO", vfio_qemu)):
        try:
            binary = find()
            print(f"{what:10} {version(binary)}  {binary}")
        except LabUnavailable as error:
            print(f"{what:10} {error}")
            missing = 1
    return missing


def main() -> int:
    """Print which QEMUs are installed, install the missing one, or try userfaultfd. Return 0 if nothing is missing."""
    parser = argparse.ArgumentParser(prog="python -m qmpguard.demo.lab", description="The QEMUs for demo and tests.")
    parser.add_argument("action", nargs="?", choices=["show", "fetch", "userfaultfd"], default="show")
    return {"show": _show, "fetch": _fetch, "userfaultfd": _userfaultfd}[parser.parse_args().action]()


if __name__ == "__main__":
    sys.exit(main())
