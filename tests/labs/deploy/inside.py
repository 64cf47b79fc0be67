"""What is checked in the VM of `make systemd-lab`: runs there as root, with the standard library alone.

Each check is a function; they build on each other, in this order. A VM `web` stands behind qmpguard@web, two more
behind qmpguard.service.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

#: seconds for whatever is waited for; the VM may have no KVM, and its host may be busy
TIMEOUT = 120.0
GUARD = "qmpguard@web.service"
CLIENTS = "/run/qmpguard/web.sock"
LAUNCHER = """\
#!/usr/bin/python3
import sys
sys.path.insert(0, "/opt/site")
from qmpguard.cli import main
sys.exit(main())
"""
MANY = """\
[[vm]]
name = "one"
qemu = "/run/qemu/one.sock"
listen = "/run/qmpguard/one.sock"
socket_mode = "0660"

[[vm]]
name = "two"
qemu = "/run/qemu/two.sock"
listen = "/run/qmpguard/two.sock"
"""


def install() -> None:
    """The guard is installed as docs/operations.md says."""
    shutil.copytree("/lab/site", "/opt/site")
    run("python3", "-m", "compileall", "-q", "/opt/site/qmpguard", "/opt/site/qemu")  # as pip does it
    launcher = Path("/usr/local/bin/qmpguard")
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    for unit in Path("/lab/systemd").glob("*.s[eo]*"):
        shutil.copy(unit, "/etc/systemd/system")
    shutil.copy("/lab/systemd/qmpguard.sysusers", "/usr/lib/sysusers.d/qmpguard.conf")
    run("systemd-sysusers")
    run("systemctl", "daemon-reload")
    run("systemd-analyze", "verify", "--man=no", f"/etc/systemd/system/{GUARD}", "/etc/systemd/system/qmpguard.service")


def qemus_run() -> None:
    """Each QEMU has a user of its own and shows its socket to the group kvm."""
    run("useradd", "--system", "--gid", "kvm", "vm")
    Path("/run/qemu").mkdir()
    shutil.chown("/run/qemu", "vm", "kvm")
    for name in ("web", "one", "two"):
        monitor = f"unix:/run/qemu/{name}.sock,server=on,wait=off"
        command = ("qemu-system-x86_64", "-M", "none", "-nodefaults", "-display", "none", "-qmp", monitor)
        run("systemd-run", f"--unit=qemu-{name}", "--uid=vm", "-p", "UMask=0007", *command)
    until(lambda: all(Path(f"/run/qemu/{name}.sock").exists() for name in ("web", "one", "two")))


def the_socket_waits_without_a_guard() -> None:
    """The socket unit listens, and no guard runs yet."""
    run("systemctl", "start", "qmpguard@web.socket")
    same(shown(GUARD, "ActiveState"), "inactive")
    same(f"{Path(CLIENTS).stat().st_mode & 0o777:o} {Path(CLIENTS).group()}", "660 qmpguard")


def the_first_client_starts_the_guard() -> None:
    """A client is served by a guard that was not there, that has its own user, and that shows its state."""
    same(ask(), "running")
    same(shown(GUARD, "ActiveState"), "active")
    same(shown(GUARD, "StatusText"), "guarding 1 VM")
    same(Path(f"/proc/{main_pid()}").owner(), "qmpguard")


def the_log_names_who_the_client_is() -> None:
    """No user namespace hides the clients' users: the audit and the access lists need them."""
    said = run("journalctl", "-u", GUARD, "-o", "cat")
    assert f"pid{os.getpid()}/uid0 connected" in said, said


def a_reload_keeps_the_guard_and_its_clients() -> None:
    """A reload ends neither the process nor a conversation."""
    before = main_pid()
    with Client() as client:
        run("systemctl", "reload", GUARD)
        same(client.ask("query-status")["return"]["status"], "running")
    same(main_pid(), before)


def a_restart_keeps_the_connection_to_qemu() -> None:
    """The old process leaves its link in the descriptor store, and the new one takes it out."""
    before, qemu = main_pid(), connections("qemu-web.service")
    run("systemctl", "restart", GUARD)
    assert main_pid() != before
    same(ask(), "running")
    same(" ".join(connections("qemu-web.service")), " ".join(qemu))
    same(shown(GUARD, "NFileDescriptorStore"), "0")
    assert "the link goes on from the guard before" in run("journalctl", "-u", GUARD, "-o", "cat")


def a_killed_guard_is_missed_by_nobody() -> None:
    """After kill -9 the next client waits and is served; QEMU is the same."""
    guard, qemu = main_pid(), main_pid("qemu-web.service")
    run("systemctl", "kill", "--kill-who=main", "--signal=KILL", GUARD)
    same(ask(), "running")
    assert main_pid() != guard
    same(main_pid("qemu-web.service"), qemu)


def a_guard_that_hangs_is_started_again() -> None:
    """The watchdog ends a guard whose event loop does not turn."""
    drop_in("WatchdogSec=2")
    run("systemctl", "restart", GUARD)
    guard = main_pid()
    os.kill(int(guard), 19)
    until(lambda: main_pid() not in (guard, "0"))
    drop_in("WatchdogSec=30")  # a busy host must not end the guards of the checks that follow
    run("systemctl", "restart", GUARD)
    same(ask(), "running")
    assert "Watchdog timeout" in run("journalctl", "-u", GUARD, "-o", "cat")


def a_stopped_guard_comes_back_with_the_next_client() -> None:
    """Stopping the service leaves its socket, but not its link to QEMU; stopping the socket removes it."""
    sockets = len(connections("qemu-web.service"))
    run("systemctl", "stop", GUARD)
    until(lambda: len(connections("qemu-web.service")) == sockets - 1)
    same(ask(), "running")
    run("systemctl", "stop", "qmpguard@web.socket", GUARD)
    assert not Path(CLIENTS).exists()


def a_wrong_configuration_is_no_endless_loop() -> None:
    """A guard that cannot start for its options fails, and in the end its socket with it."""
    Path("/etc/qmpguard").mkdir(exist_ok=True)
    Path("/etc/qmpguard/web.env").write_text("QMPGUARD_MODE=nonsense\n")
    drop_in("WatchdogSec=30", "[Unit]", "StartLimitBurst=3", "StartLimitIntervalSec=600")
    run("systemctl", "start", "qmpguard@web.socket")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(CLIENTS)
        until(lambda: shown("qmpguard@web.socket", "ActiveState") == "failed")
    same(shown(GUARD, "ExecMainStatus"), "2")


def a_qemu_connects_to_its_socket() -> None:
    """QEMU's user alone enters the directory of qmpguard-qemu@.socket; the socket stays, and so does its owner."""
    units = ("qmpguard-qemu@db.socket", "qmpguard@db.socket", "qmpguard@db.service")
    Path("/etc/qmpguard/db.env").write_text("QMPGUARD_QEMU_LISTEN=fd:qemu\n")
    place = Path("/etc/systemd/system/qmpguard-qemu@db.socket.d")
    place.mkdir()
    (place / "lab.conf").write_text("[Socket]\nSocketUser=vm\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "start", *units)
    owners_are("vm")
    there = "socket,id=qmp,path=/run/qmpguard-qemu-db/qmp.sock,reconnect=1"
    options = ("-M", "none", "-nodefaults", "-display", "none", "-chardev", there, "-mon", "chardev=qmp,mode=control")
    run("systemd-run", "--unit=qemu-db", "--uid=vm", "qemu-system-x86_64", *options)
    same(ask("/run/qmpguard/db.sock"), "running")
    entered = subprocess.run(["runuser", "-u", "nobody", "-g", "kvm", "--", "ls", "/run/qmpguard-qemu-db"], check=False)
    assert entered.returncode != 0, "another user may enter"
    run("systemctl", "restart", "qmpguard@db.service")
    same(ask("/run/qmpguard/db.sock"), "running")
    run("systemctl", "stop", *units)
    run("systemctl", "start", *units)
    owners_are("vm")
    same(ask("/run/qmpguard/db.sock"), "running")
    run("systemctl", "stop", "qemu-db.service", *units)


def owners_are(user: str) -> None:
    """The socket for QEMU of VM db and its directory have an owner, and nobody else may use them."""
    for path, mode in (("/run/qmpguard-qemu-db", "700"), ("/run/qmpguard-qemu-db/qmp.sock", "600")):
        same(f"{Path(path).owner()} {Path(path).stat().st_mode & 0o777:o}", f"{user} {mode}")


def one_guard_for_many() -> None:
    """qmpguard.service guards what its file says, and shows in its status which QEMU is missing."""
    Path("/etc/qmpguard/qmpguard.toml").write_text(MANY)
    run("systemctl", "start", "qmpguard.service")
    until(lambda: shown("qmpguard.service", "StatusText") == "guarding 2 VMs")
    for name in ("one", "two"):
        same(ask(f"/run/qmpguard/{name}.sock"), "running")
    run("systemctl", "stop", "qemu-two.service")
    until(lambda: "waiting for QEMU: two" in shown("qmpguard.service", "StatusText"))
    config = Path("/etc/qmpguard/qmpguard.toml")
    config.write_text("nonsense = true\n")
    assert subprocess.run(["systemctl", "reload", "qmpguard.service"], check=False).returncode != 0
    config.write_text(MANY.partition("\n\n")[0])
    run("systemctl", "reload", "qmpguard.service")
    until(lambda: shown("qmpguard.service", "StatusText") == "guarding 1 VM")
    run("systemctl", "stop", "qmpguard.service")
    same(shown("qmpguard.service", "Result"), "success")


CHECKS = (
    install,
    qemus_run,
    the_socket_waits_without_a_guard,
    the_first_client_starts_the_guard,
    the_log_names_who_the_client_is,
    a_reload_keeps_the_guard_and_its_clients,
    a_restart_keeps_the_connection_to_qemu,
    a_killed_guard_is_missed_by_nobody,
    a_guard_that_hangs_is_started_again,
    a_stopped_guard_comes_back_with_the_next_client,
    a_wrong_configuration_is_no_endless_loop,
    a_qemu_connects_to_its_socket,
    one_guard_for_many,
)


class Client:
    """A client of a guard, negotiated."""

    def __init__(self, path: str = CLIENTS) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(TIMEOUT)
        self._sock.connect(path)
        self._lines = self._sock.makefile()

    def __enter__(self) -> Self:
        assert "QMP" in json.loads(self._lines.readline())
        assert self.ask("qmp_capabilities") == {"return": {}}
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._sock.close()

    def ask(self, command: str) -> dict[str, dict[str, str]]:
        """A command's reply."""
        self._sock.sendall(json.dumps({"execute": command}).encode())
        reply: dict[str, dict[str, str]] = json.loads(self._lines.readline())
        return reply


def ask(path: str = CLIENTS) -> str:
    """The run state of a VM, as a client of its guard sees it. A machine without CPUs runs."""
    with Client(path) as client:
        return client.ask("query-status")["return"]["status"]


def run(*command: str) -> str:
    """What a program says."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def shown(unit: str, name: str) -> str:
    """A property of a unit."""
    return run("systemctl", "show", "--value", "-p", name, unit).strip()


def main_pid(unit: str = GUARD) -> str:
    """The process of a service; "0" while there is none."""
    return shown(unit, "MainPID")


def connections(unit: str) -> list[str]:
    """The sockets that a service has open."""
    links = [str(link.readlink()) for link in Path(f"/proc/{main_pid(unit)}/fd").iterdir()]
    return sorted(link for link in links if link.startswith("socket:"))


def drop_in(*lines: str) -> None:
    """Change settings of the guard's service."""
    place = Path(f"/etc/systemd/system/{GUARD}.d")
    place.mkdir(exist_ok=True)
    (place / "lab.conf").write_text("\n".join(["[Service]", *lines, ""]))
    run("systemctl", "daemon-reload")


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds that nothing announces."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def same(found: str, wanted: str) -> None:
    """Both are the same."""
    assert found == wanted, f"{found!r} instead of {wanted!r}"


def main() -> int:
    """Do the checks until one fails."""
    for check in CHECKS:
        begun = time.monotonic()
        try:
            check()
        except Exception:  # noqa: BLE001 -- whatever it is, it goes to the console, and the VM is switched off
            print(f"lab: {check.__name__} FAILED", traceback.format_exc(), sep="\n", flush=True)
            print(run("journalctl", "-b", "-n", "60", "-o", "cat"), flush=True)
            return 1
        print(f"lab: {check.__name__} ({time.monotonic() - begun:.1f} s)", flush=True)
    print("lab: all is well", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
