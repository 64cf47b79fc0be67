"""The units, as systemd itself judges them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "systemd").glob("*.service")) + sorted((ROOT / "systemd").glob("*.socket"))
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
#: of ten; systemd's own words: up to 2 is "OK", up to 1 "SAFE"
EXPOSURE = 1.0


def systemd(*arguments: str) -> str:
    assert shutil.which("systemd-analyze"), "systemd-analyze is not here: `make packages` installs it (Debian: systemd)"
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_systemd_finds_no_fault_with_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        text = re.sub(r"^(Exec\w+=)qmpguard ", r"\1/bin/true ", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text)  # it looks for the programs, and ours is not installed
    said = systemd("verify", "--man=no", *(str(tmp_path / unit.name) for unit in UNITS))
    assert "qmpguard" not in said, said  # of units that the machine has it may say anything


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_a_service_is_as_shut_in_as_it_can_be(unit: Path) -> None:
    systemd("security", "--offline=true", f"--threshold={int(EXPOSURE * 10)}", str(unit))


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_a_service_sees_who_its_clients_are(unit: Path) -> None:
    assert "PrivateUsers" not in [line.partition("=")[0] for line in unit.read_text().splitlines()]


def test_only_one_user_may_connect_in_the_place_of_qemu() -> None:
    """The directory has the socket's owner, and is root's when systemd changes the owner of the socket by its path."""
    lines = (ROOT / "systemd/qmpguard-qemu@.socket").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    folder, _, name = settings["ListenStream"].rpartition("/")
    assert (settings["SocketMode"], settings["DirectoryMode"], folder.count("/")) == ("0600", "0700", 2)
    assert settings["ExecStartPre"] == f"install -d -o root -g root -m 0700 {folder}"
    assert settings["ExecStartPost"] == f"chown --reference={folder}/{name} {folder}"
    assert settings["Service"] == "qmpguard@%i.service", "both sockets are passed to one guard"
    assert settings["FileDescriptorName"] == "qemu"


def test_the_socket_has_the_name_that_the_guard_takes_without_being_told() -> None:
    from qmpguard.commands.run import SOCKET

    assert f"FileDescriptorName={SOCKET}" in (ROOT / "systemd/qmpguard@.socket").read_text().splitlines()
