"""libvirt behind the guard: `make libvirt-lab`.

Debian's own libvirtd and QEMU run in chroots, with the launcher of examples/libvirt as a domain's emulator, once for
each suite. The checks are in libvirt_checks.py and run in namespaces of their own. It takes root and minutes, so it
is no part of `make test`. KVM is not needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.labs.deploy.stage import PYTHONS, ROOT, debian, installed, kept, wheels

if TYPE_CHECKING:
    from pathlib import Path

#: seconds for all checks of one suite; they take some 200 on two idle cores
LIMIT = 1800.0
PACKAGES = ("libvirt-daemon-system", "libvirt-clients", "qemu-system-x86", "qemu-utils", "python3", "procps")
#: what a pip in that Debian would write as the command
COMMAND = """\
#!/opt/qmpguard/bin/python3
import sys
from qmpguard.__main__ import start
sys.exit(start())
"""
#: The checks' own processes, file systems and network; `sh` is its first process, and takes care of orphans.
NAMESPACES = ("unshare", "--mount", "--pid", "--net", "--ipc", "--fork", "--kill-child", "--mount-proc")


@pytest.fixture(params=os.environ.get("SUITES", "").split() or list(PYTHONS))
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A Debian with libvirt that stays as it is, and what is laid over it: the guard and the launcher."""
    assert os.geteuid() == 0, "root is needed: libvirtd's QEMUs are processes of another user"
    release: str = request.param
    base = kept("libvirt", lambda target: debian(target, *PACKAGES, release=release), release)
    over = tmp_path / "over"
    venv = over / "opt/qmpguard"
    venv.mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "bin/python3").symlink_to("/usr/bin/python3")
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\n")
    packages = venv / f"lib/python{PYTHONS[release]}/site-packages"
    installed(wheels(tmp_path / "wheels", release), packages, release)
    command = venv / "bin/qmpguard"
    command.write_text(COMMAND)
    command.chmod(0o755)
    launcher = over / "usr/local/libexec/qmpguard"
    launcher.mkdir(parents=True)
    shutil.copy(ROOT / "examples/libvirt/qemu-system-x86_64", launcher)
    return base, over


def test_virsh_is_told_the_same_through_the_guard_and_refused_what_must_be(machine: tuple[Path, Path]) -> None:
    checks = (sys.executable, "-m", "tests.labs.deploy.libvirt_checks", *map(str, machine))
    done = subprocess.run(
        (*NAMESPACES, "sh", "-c", '"$@"; exit $?', "sh", *checks),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        check=False,
        timeout=LIMIT,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]
