"""The emulator for libvirt: which command lines go straight to QEMU, which to the guard, and which nowhere."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.labs.deploy.stage import ROOT

MONITOR = ("-chardev", "socket,id=charmonitor,fd=29,server=on,wait=off")
CONTROL = ("-mon", "chardev=charmonitor,id=monitor,mode=control")
DOMAIN = ("-name", "guest=web,debug-threads=on", "-S", "-machine", "pc-q35-7.2,usb=off", "-uuid", "aa-bb")
PROBE = ("-S", "-no-user-config", "-nodefaults", "-nographic", "-machine", "none,accel=kvm:tcg")
#: a program that says which it is, and what it was told, one word a line
SAYS = '#!/bin/sh\nprintf "%s\\n" "${0##*/}" "$@"\nenv | grep ^QMPGUARD_ || true\n'


class Emulator(NamedTuple):
    """The launcher, with programs in the places of QEMU and of the guard that say what they are told."""

    path: Path
    settings: Path

    def run(self, *words: str) -> tuple[int, list[str], str]:
        done = subprocess.run([self.path, *words], capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.fixture
def emulator(tmp_path: Path) -> Emulator:
    for name in ("qemu", "qmpguard"):
        (tmp_path / name).write_text(SAYS)
        (tmp_path / name).chmod(0o755)
    settings = tmp_path / "etc"
    (settings / "libvirt").mkdir(parents=True)
    text = (ROOT / "examples/libvirt/qemu-system-x86_64").read_text()
    places = {"/usr/bin/${0##*/}": tmp_path / "qemu", "/opt/qmpguard/bin/qmpguard": tmp_path / "qmpguard"}
    for place, instead in {**places, "/etc/qmpguard": settings}.items():
        assert text.count(f"={place}\n") == 1
        text = text.replace(f"={place}\n", f"={instead}\n")
    path = tmp_path / "qemu-system-x86_64"
    path.write_text(text)
    path.chmod(0o755)
    return Emulator(path, settings)


def test_a_domain_is_started_behind_the_guard_without_libvirts_monitor(emulator: Emulator) -> None:
    status, said, _ = emulator.run(*DOMAIN, *MONITOR, *CONTROL, "-chardev", "pty,id=charserial0", "-msg", "a  b", "")
    assert status == 0
    assert said[0] == "qmpguard"
    split = said.index("--")
    assert said[1:split] == [
        *("exec", "--keep-pid", "--log-file", "/var/log/qmpguard/web.log", "--listen", "fd:29", "--name", "web")
    ]
    qemu = str(emulator.path.with_name("qemu"))
    assert said[split + 1 :] == [qemu, *DOMAIN, "-chardev", "pty,id=charserial0", "-msg", "a  b", ""]


def test_another_monitor_is_left_for_the_guard_to_refuse(emulator: Emulator) -> None:
    more = ("-chardev", "socket,id=x,path=/x", "-mon", "chardev=x", "-qmp", "stdio", "-chardev")
    _, said, _ = emulator.run(*DOMAIN, *MONITOR, *CONTROL, *more)
    assert tuple(said[-len(more) :]) == more


@pytest.mark.parametrize(
    "words",
    [
        (*PROBE, "-qmp", "unix:/x,server=on,wait=off", "-pidfile", "/p", "-daemonize"),
        ("-version",),
        ("--version",),
        ("-help",),
        ("-machine", "none", "--help"),
    ],
)
def test_a_question_goes_straight_to_qemu(emulator: Emulator, words: tuple[str, ...]) -> None:
    status, said, _ = emulator.run(*words)
    assert (status, said) == (0, ["qemu", *words])


@pytest.mark.parametrize(
    "words",
    [
        (),
        DOMAIN,
        (*DOMAIN, *MONITOR),
        (*DOMAIN, *CONTROL),
        (*DOMAIN, "-qmp", "stdio"),
        (*DOMAIN, "-chardev", "socket,id=charmonitor,path=/x,server=on", *CONTROL),
        (*DOMAIN, *MONITOR, "-mon", "chardev=charmonitor,id=monitor,mode=readline"),
        (*DOMAIN, "-smbios", "type=1,sku=x,,help"),
        (*PROBE, *MONITOR),
    ],
)
def test_a_domain_whose_monitor_is_not_as_expected_is_not_started(emulator: Emulator, words: tuple[str, ...]) -> None:
    status, said, errors = emulator.run(*words)
    assert (status, said) == (2, [])
    assert errors.startswith("qemu-system-x86_64: no monitor as libvirt passes it: ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("name", ["", "../../tmp/x", ".hidden", "with space", "uml\u00e4ut", "semi;colon", "$(id)"])
def test_a_name_that_is_no_files_gives_way_to_the_uuid(emulator: Emulator, name: str) -> None:
    _, said, _ = emulator.run("-name", f"guest={name},debug-threads=on", "-uuid", "aa-bb", *MONITOR, *CONTROL)
    assert said[said.index("--name") + 1] == "aa-bb"
    assert "/var/log/qmpguard/aa-bb.log" in said


def test_settings_of_all_domains_give_way_to_those_of_one(emulator: Emulator) -> None:
    (emulator.settings / "libvirt.env").write_text("QMPGUARD_MODE=warn\nQMPGUARD_PROFILE=strict\nLOG=/log/$NAME\n")
    (emulator.settings / "libvirt/web.env").write_text("QMPGUARD_MODE=enforce\n")
    _, said, _ = emulator.run(*DOMAIN, *MONITOR, *CONTROL)
    assert {"QMPGUARD_MODE=enforce", "QMPGUARD_PROFILE=strict", "/log/web"} <= set(said)
    _, said, _ = emulator.run("-name", "guest=db", *MONITOR, *CONTROL)
    assert "QMPGUARD_MODE=warn" in said


@pytest.mark.parametrize("text", ["(\n", "no-such-command\n", "exit 3\n"])
def test_settings_that_cannot_be_read_start_nothing(emulator: Emulator, text: str) -> None:
    (emulator.settings / "libvirt.env").write_text(text)
    status, said, _ = emulator.run(*DOMAIN, *MONITOR, *CONTROL)
    assert status != 0
    assert said == []


def test_a_guard_that_is_not_installed_starts_nothing(emulator: Emulator) -> None:
    emulator.path.with_name("qmpguard").unlink()
    status, said, errors = emulator.run(*DOMAIN, *MONITOR, *CONTROL)
    assert status == 127
    assert said == []
    assert "not found" in errors


def test_it_is_plain_sh() -> None:
    shell = shutil.which("dash") or "sh"
    subprocess.run([shell, "-n", ROOT / "examples/libvirt/qemu-system-x86_64"], check=True, timeout=60)
