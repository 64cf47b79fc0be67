"""The units under a whole systemd, in a small VM: `make systemd-lab`.

It boots a Debian in QEMU, without KVM unless QMPGUARD_LAB_ACCEL says so, and runs tests/labs/deploy/inside.py in it.
That takes minutes, so it is no part of `make test`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from qmpguard.demo.lab import system_qemu
from tests.labs.deploy.stage import ROOT, debian, installed, kept, run, wheels

if TYPE_CHECKING:
    from pathlib import Path

#: seconds for booting and all checks; without KVM they take some 200 on two idle cores
LIMIT = 1800.0
#: bytes of the VM's disk; half of it is used
DISK = "2G"
PACKAGES = (
    "systemd-sysv",
    "python3",
    "qemu-system-x86",
    "linux-image-cloud-amd64",
    "initramfs-tools",
    "kmod",
    "procps",
)
#: what the VM needs to find its disk; all of Debian's modules would take it longer to unpack than all checks take
MODULES = "virtio_pci\\nvirtio_blk\\next4\\n"
#: starts the checks from the second disk when the system is up, and switches off when they have ended
UNIT = """\
[Unit]
After=multi-user.target
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
ExecStartPre=/bin/mount -o ro /dev/vdb /lab
ExecStart=/usr/bin/python3 /lab/inside.py
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
[Install]
WantedBy=graphical.target
"""


def system(target: Path) -> Path:
    """A Debian as the image of a disk, with its kernel beside it in the same file system."""
    root = target.with_name("root")
    early = (
        'mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"',
        'echo MODULES=list >"$1/etc/initramfs-tools/conf.d/lab"',
        f"printf '{MODULES}' >\"$1/usr/share/initramfs-tools/modules.d/lab\"",
    )
    debian(root, *PACKAGES, hooks=(f"--essential-hook={'; '.join(early)}",))
    (root / "lab").mkdir()
    (root / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
    (root / "etc/systemd/system/lab.service").write_text(UNIT)
    wants = root / "etc/systemd/system/graphical.target.wants"
    wants.mkdir(parents=True)
    (wants / "lab.service").symlink_to("/etc/systemd/system/lab.service")
    target.mkdir()
    for name, found in (("kernel", "vmlinuz-*"), ("initrd", "initrd.img-*")):
        shutil.copy(next((root / "boot").glob(found)), target / name)
    disk(target / "disk", root, DISK)
    shutil.rmtree(root)
    return target


def disk(image: Path, root: Path, size: str) -> Path:
    """A directory as the image of a disk."""
    run("/sbin/mke2fs", "-q", "-t", "ext4", "-d", str(root), str(image), size, limit=LIMIT)
    return image


@pytest.fixture
def guard(tmp_path: Path) -> Path:
    """The second disk: the guard as it is installed, its units, and the checks."""
    root = tmp_path / "lab"
    root.mkdir()
    installed(wheels(tmp_path / "wheels"), root / "site")
    shutil.copytree(ROOT / "systemd", root / "systemd")
    shutil.copy(ROOT / "tests/labs/deploy/inside.py", root)
    return disk(tmp_path / "guard", root, "128M")


def test_the_units_do_under_systemd_what_they_promise(guard: Path) -> None:
    booted = kept("systemd", system)
    accel = os.environ.get("QMPGUARD_LAB_ACCEL", "tcg,thread=multi")
    command = [str(system_qemu()), "-accel", accel, "-M", "q35", "-cpu", "max", "-smp", "2", "-m", "1024"]
    command += ["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]
    command += ["-kernel", str(booted / "kernel"), "-initrd", str(booted / "initrd")]
    command += ["-append", "root=/dev/vda rw console=ttyS0 panic=-1 quiet systemd.show_status=0"]
    command[-1] += " no_timer_check nowatchdog"  # a busy machine would make the kernel doubt its timer and panic
    command[-1] += " systemd.mask=serial-getty@ttyS0.service"  # it would hang up the console under the checks' report
    for image in (booted / "disk", guard):
        command += ["-drive", f"file={image},if=virtio,format=raw,snapshot=on"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=LIMIT)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert "lab: all is well" in lines, "\n".join(lines[-60:])
