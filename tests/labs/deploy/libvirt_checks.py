"""What is checked by `make libvirt-lab`, as root in namespaces of its own: ``BASE OVER`` are a Debian, and the guard.

Two hosts each time: one life of a domain directly, the same behind the guard, and then what only the guard does.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import time
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.labs.deploy.libvirt_hosts import AS_ROOT, PATIENCE, Host, Said, alive, children, until
from tests.labs.deploy.libvirt_words import DISKS_MADE, DOMAIN, FILES, LAUNCHER, MIGRATE, QEMU, WORDS
from tests.labs.deploy.stage import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: a domain of the last part: its random number generator counts as a VFIO device, for lack of a real one
COUNTED = "QMPGUARD_EXTRA_TYPES=virtio-rng-pci\n"
SETTINGS = "/etc/qmpguard/libvirt.env"
POSTCOPY = '{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"%s","state":true}]}}'
#: a second monitor, as a domain's XML may have it
MONITOR = "<qemu:commandline><qemu:arg value='-qmp'/><qemu:arg value='null'/></qemu:commandline>"

#: print each answer
VERBOSE = "VERBOSE" in os.environ


class Line(NamedTuple):
    """A line of `WORDS`."""

    host: int
    words: str
    waits: bool
    varies: bool


def read(line: str) -> Line:
    """Read a line."""
    second, waits = line.startswith("two:"), line.startswith("wait:")
    rest = line.removeprefix("two:").removeprefix("wait:")
    return Line(int(second), rest.removeprefix("~"), waits, rest.startswith("~"))


@contextmanager
def hosts(base: Path, over: Path) -> Iterator[tuple[Host, Host]]:
    """Two new hosts, which see the same disks, and each other."""
    with tempfile.TemporaryDirectory(prefix="qmpguard-libvirt-") as folder:
        shared = Path(folder, "shared")
        shared.mkdir()
        shared.chmod(0o777)
        pair = (Host("one", 1, Path(folder, "one")), Host("two", 2, Path(folder, "two")))
        for host in pair:
            host.build(base, over, shared)
        for disk, size in DISKS_MADE.items():
            pair[0].say("qemu-img", "create", "-q", "-f", "qcow2", f"/shared/{disk}", size)
            pair[0].say("chown", "libvirt-qemu:kvm", f"/shared/{disk}")
        (shared / "cd.iso").write_bytes(bytes(1 << 20))
        try:
            for host in pair:
                host.start()
            pair[0].see(pair[1])
            pair[1].see(pair[0])
            yield pair
        finally:
            for host in pair:
                host.end()


def life(base: Path, over: Path, emulator: str) -> list[Said]:
    """What virsh answers to all lines, with an emulator."""
    with hosts(base, over) as pair:
        for host in pair:
            for path, text in FILES.items():
                host.write(path, text.replace("{emulator}", emulator))
        return [answer(pair[line.host], line) for line in map(read, WORDS.splitlines())]


def answer(host: Host, line: Line) -> Said:
    """What virsh answers to a line."""
    said = host.virsh(line.words)
    end = time.monotonic() + PATIENCE
    while line.waits and said.status == 0 and "None" not in said.output:
        assert time.monotonic() < end, f"{line.words}: waited in vain"
        time.sleep(0.1)
        said = host.virsh(line.words)
    return said


def plain(said: Said, line: Line) -> Said:
    """What stays the same each time: the emulator's name, times and process numbers do not."""
    return Said(said.status, *(_plain(text, varies=line.varies) for text in said[1:]))


def _plain(text: str, *, varies: bool) -> str:
    text = text.replace(LAUNCHER, QEMU)
    text = re.sub(r"<(creationTime)>\d+</\1>", r"<\1/>", text)
    text = re.sub(r"/dev/pts/\d+", "/dev/pts/N", text)
    text = re.sub(r'"libvirt-\d+"', '"libvirt-N"', text)
    text = re.sub(r"(\n[\w ]+: \[[ \d.]+ %\])+", "", text)  # progress
    return re.sub(r"[\d.]+ *", "N ", text) if varies else text


def virsh_is_told_the_same(base: Path, over: Path) -> None:
    """Every line has the same exit status, output and error, directly and behind the guard."""
    lines = [read(line) for line in WORDS.splitlines()]
    direct, guarded = life(base, over, QEMU), life(base, over, LAUNCHER)
    different = 0
    for line, one, other in zip(lines, direct, guarded, strict=True):
        same = plain(one, line) == plain(other, line)
        different += not same
        print(f"    {'same' if same else 'DIFFERENT'}  {one.status}  {'two: ' if line.host else ''}{line.words[:90]}")
        if not same or VERBOSE:
            print(f"        directly: {one}\n        guarded:  {other}")
    good = sum(said.status == 0 for said in direct)
    print(f"    {len(lines)} commands, {good} of them good, {different} different")
    assert not different


def qemu_is_the_process_that_libvirt_knows(base: Path, over: Path) -> None:
    """QEMU has libvirt's PID, the guard is its only child, and both go when the domain is destroyed."""
    with hosts(base, over) as (host, _):
        define(host)
        qemu, guard = started(host)
        assert Path(f"/proc/{qemu}/exe").readlink().name == "qemu-system-x86_64"
        assert host.virsh("destroy web").status == 0
        until(lambda: not alive(qemu) and not alive(guard))


def a_guard_that_dies_takes_its_domain_along(base: Path, over: Path) -> None:
    """libvirt ends a domain whose monitor is gone, so no QEMU goes on without a guard."""
    with hosts(base, over) as (host, _):
        define(host)
        qemu, guard = started(host)
        os.kill(guard, signal.SIGKILL)
        until(lambda: not alive(qemu))
        until(lambda: "crashed" in host.virsh("domstate web --reason").output)
        qemu, guard = started(host)
        os.kill(qemu, signal.SIGKILL)
        until(lambda: not alive(guard))
        until(lambda: "crashed" in host.virsh("domstate web --reason").output)


def a_new_libvirtd_finds_its_domains(base: Path, over: Path) -> None:
    """libvirtd connects to the guard again when it is started again."""
    with hosts(base, over) as (host, _):
        define(host)
        qemu, guard = started(host)
        host.stop()
        host.start()
        until(lambda: "running" in host.virsh("domstate web").output)
        assert host.virsh("suspend web").status == 0
        assert alive(qemu)
        assert alive(guard)


def the_combination_is_refused_at_both_ends(base: Path, over: Path) -> None:
    """With a device that counts as VFIO there is no postcopy, at the source and at the destination, by QMP and HMP."""
    with hosts(base, over) as (one, two):
        for host in (one, two):
            host.stop()
            host.write("/etc/libvirt/qemu.conf", AS_ROOT)
            host.start()
        define(one)
        one.write("/etc/qmpguard/libvirt/web.env", COUNTED)
        started(one)
        refused(one.virsh(f"{MIGRATE} --postcopy"), "vfio-postcopy")
        refused(one.virsh(["qemu-monitor-command", "web", POSTCOPY % "postcopy-ram"]), "vfio-postcopy")
        refused(one.virsh("qemu-monitor-command web --hmp 'migrate_set_capability postcopy-ram on'"), "vfio-postcopy")
        refused(
            one.virsh(["qemu-monitor-command", "web", POSTCOPY % "background-snapshot"]), "vfio-background-snapshot"
        )
        assert "verdict=refused rule=vfio-postcopy" in one.read("/var/log/qmpguard/web.log")
        same(one.virsh(MIGRATE).status, 0)  # precopy is another matter
        two.virsh("destroy web")
        one.write("/etc/qmpguard/libvirt/web.env", "")
        two.write("/etc/qmpguard/libvirt/web.env", COUNTED)
        started(one)
        refused(one.virsh(f"{MIGRATE} --postcopy"), "vfio-postcopy")
        same(one.virsh("domstate web").output.strip(), "running")
        same(two.virsh("list --name").output.strip(), "")
        two.write("/etc/qmpguard/libvirt/web.env", "")
        same(one.virsh(f"{MIGRATE} --postcopy").status, 0)  # without such a device it is not refused


def an_operator_reaches_the_guard(base: Path, over: Path) -> None:
    """Settings of one domain are used: an admin interface; and root can override a rule."""
    qmpguard = "/opt/qmpguard/bin/qmpguard"
    with hosts(base, over) as (host, _):
        define(host)
        host.say("install", "-d", "-o", "libvirt-qemu", "/run/qmpguard-libvirt")
        host.write(SETTINGS, "QMPGUARD_ADMIN=/run/qmpguard-libvirt/$NAME.sock\n")
        host.write("/etc/qmpguard/libvirt/web.env", COUNTED)
        started(host)
        words = ["qemu-monitor-command", "web", POSTCOPY % "postcopy-ram"]
        refused(host.virsh(words), "vfio-postcopy")
        overridden = host.say(
            qmpguard, "override", "--vm", "web", "--rule", "vfio-postcopy", "--for", "1m", "--reason", "lab"
        )
        assert overridden.status == 0, overridden
        assert "qmpguard" not in host.virsh(words).output
        shown = host.say(qmpguard, "status", "/run/qmpguard-libvirt/web.sock")
        assert "web" in shown.output, shown


def a_domain_without_an_emulator_gets_the_first_in_the_path(base: Path, over: Path) -> None:
    """libvirtd chooses the launcher where its PATH leads there first, as for managers that name no emulator."""
    with hosts(base, over) as (host, _):
        host.stop()
        host.start(before=f"{Path(LAUNCHER).parent}:")
        define(host, emulator="")
        assert f"<emulator>{LAUNCHER}</emulator>" in host.virsh("dumpxml web").output
        started(host)


def a_domain_does_not_start_without_its_guard(base: Path, over: Path) -> None:
    """Wrong settings, another monitor and a missing guard each keep a domain from starting, and virsh says why."""
    with hosts(base, over) as (host, _):
        define(host)
        host.write(SETTINGS, "QMPGUARD_MODE=nonsense\n")
        fails(host, "it is enforce or warn")
        host.write(SETTINGS, "QMPGUARD=/no/such/guard\n")
        fails(host, "/no/such/guard")
        host.write(SETTINGS, "")
        define(host, more=MONITOR)
        fails(host, "would open a way around the guard")
        host.write(SETTINGS, "QMPGUARD_RULES=new-monitor=warn\n")
        started(host)


def define(host: Host, more: str = "", emulator: str = LAUNCHER) -> None:
    """Define the domain web, behind the guard unless there is another emulator or none."""
    uuid = "00000000-1111-2222-3333-555555555555"
    text = DOMAIN.format(name="web", uuid=uuid, emulator=emulator, devices="", more=more)
    host.write("/root/web.xml", text.replace("<emulator></emulator>", ""))
    same(host.virsh("define /root/web.xml").status, 0)


def started(host: Host) -> tuple[int, int]:
    """Start the domain web, and return its QEMU and its guard."""
    said = host.virsh("start web")
    assert said.status == 0, said
    qemu = host.qemu("web")
    (guard,) = children(qemu)
    return qemu, guard


def fails(host: Host, why: str) -> None:
    """The domain web does not start, virsh says why, and no process is left."""
    said = host.virsh("start web")
    assert said.status == 1, said
    assert why in said.errors, said
    assert "Traceback" not in said.errors, said
    same(host.virsh("domstate web").output.strip(), "shut off")


def refused(said: Said, rule: str) -> None:
    """A rule of the guard was in the way."""
    assert f"qmpguard: rule {rule}" in said.output + said.errors, said


def same(found: object, wanted: object) -> None:
    """Both are the same."""
    assert found == wanted, f"{found!r} instead of {wanted!r}"


CHECKS: tuple[Callable[[Path, Path], None], ...] = (
    qemu_is_the_process_that_libvirt_knows,
    a_guard_that_dies_takes_its_domain_along,
    a_new_libvirtd_finds_its_domains,
    the_combination_is_refused_at_both_ends,
    an_operator_reaches_the_guard,
    a_domain_without_an_emulator_gets_the_first_in_the_path,
    a_domain_does_not_start_without_its_guard,
    virsh_is_told_the_same,
)


def main(base: str, over: str) -> int:
    """Do all checks. Return 0 when all are good."""
    run("mount", "--make-rprivate", "/", limit=PATIENCE)
    run("ip", "link", "set", "lo", "up", limit=PATIENCE)
    bad = 0
    for check in CHECKS:
        begun = time.monotonic()
        try:
            check(Path(base), Path(over))
        except Exception:  # noqa: BLE001 -- whatever it is, the other checks are done too
            bad += 1
            print(f"lab: {check.__name__} FAILED", traceback.format_exc(), sep="\n", flush=True)
            continue
        print(f"lab: {check.__name__} ({time.monotonic() - begun:.1f} s)", flush=True)
    print("lab: all is well" if not bad else f"lab: {bad} FAILED", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
