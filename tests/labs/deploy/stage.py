"""What the labs begin with: a Debian, of this machine's suite if none is named, and the guard's wheels for its Python.

Nothing is named here that the machine does not use already: its own apt knows the mirror, its own pip the index.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from qmpguard.demo.lab import _mirror

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[3]
#: seconds for unpacking a Debian; it takes 80 on two busy cores
UNPACK = 1800.0
#: seconds for building the guard and fetching what it needs; it takes 15
FETCH = 600.0
#: the Python of each suite
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}


def cache(name: str) -> Path:
    """A place in the user's cache."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "qmpguard", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def suite() -> str:
    """The suite of this machine."""
    name = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    assert name in PYTHONS, f"this lab is made of Debian's {' or '.join(PYTHONS)}, and this machine is {name!r}"
    return name


def debian(target: Path, *packages: str, hooks: tuple[str, ...] = (), release: str | None = None) -> Path:
    """Unpack a Debian with some packages: a tar if the name says so, else a directory."""
    release = release or suite()
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}", *hooks, release]
    run(*command, str(target), f"deb {_mirror()} {release} main", limit=UNPACK)
    return target


def kept(name: str, make: Callable[[Path], Path], release: str | None = None) -> Path:
    """A file or directory in the user's cache, made in a place of its own when it is not there yet."""
    target = cache(f"{release or suite()}-{name}")
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as place:
            make(Path(place, name)).rename(target)
    return target


def wheels(directory: Path, release: str | None = None) -> Path:
    """The guard and what it needs, as wheels for a suite's Python, and what building the guard needs."""
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", str(directory), str(ROOT), limit=FETCH)
    guard = next(directory.glob("qmpguard-*.whl"))
    binary = ("--only-binary=:all:", "--python-version", PYTHONS[release or suite()], "--dest", str(directory))
    run(*pip, "download", *binary, str(guard), "setuptools>=77", limit=FETCH)
    return directory


def installed(wheels: Path, target: Path, release: str | None = None) -> Path:
    """The guard and what it needs, unpacked into a directory as pip would do it with that suite's Python."""
    options = ("--no-index", "--no-compile", "--find-links", str(wheels), "--target", str(target))
    binary = ("--only-binary=:all:", "--python-version", PYTHONS[release or suite()])
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "install", *options, *binary, "qmpguard", limit=FETCH)
    return target


def run(*command: str, limit: float) -> str:
    """What a program says; its last words are the failure when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{' '.join(command[:3])} failed: {done.stderr[-3000:]}"
    return done.stdout
