"""``qmpguard exec``: start a QEMU whose only monitor is the guard's."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from qmpguard.address import FdAddress
from qmpguard.errors import UnavailableError, UsageError
from qmpguard.settings.options import OPTIONS, OptionValues

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qmpguard.config import Config, VmConfig
    from qmpguard.signals import Signals

SUMMARY = "start a QEMU whose only monitor is the guard's"
DESCRIPTION = (
    "Start a QEMU whose only monitor is the guard's, so that there is no way around it: no other process holds an end "
    "of the monitor's socket pair. Signals are forwarded to QEMU, and qmpguard exits with QEMU's status. A command "
    "line with another monitor is refused, or warned of where rule new-monitor only warns. With --keep-pid QEMU also "
    "keeps the descriptors that were passed to this command; the guard ends when QEMU has ended."
)

#: options of `run` that have no meaning here: QEMU's address, and how clients are served after QEMU has ended
WITHOUT = frozenset({"qemu", "qemu-listen", "takeover", "absent", "end-with-qemu"})

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`, and QEMU's command line."""
    for option in OPTIONS:
        if option.flag not in WITHOUT:
            option.add_to(parser)
    parser.add_argument(
        "--keep-pid",
        action="store_true",
        help="this process becomes QEMU, and the guard is its child: for managers that know QEMU by its PID",
    )
    parser.add_argument(
        "--log-file",
        metavar="FILE",
        help="with --keep-pid: where the guard logs once it is ready, since standard error is QEMU's",
    )
    parser.usage = "qmpguard exec [options] -- QEMU [ARGUMENT ...]"
    parser.add_argument(
        "command", metavar="QEMU", nargs=argparse.REMAINDER, help="behind --: QEMU's program, and its arguments"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Guard as long as QEMU runs, and return its exit status; with ``--keep-pid`` become QEMU."""
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise UsageError("exec needs QEMU's command line, behind --")
    from qmpguard.daemon.monitors import is_daemon

    if arguments.log_file is not None and not arguments.keep_pid:
        raise UsageError("--log-file is for --keep-pid")
    if is_daemon(command):
        raise UsageError("-daemonize: the guard would end when QEMU leaves its process; leave it out")
    return _beside(arguments, command) if arguments.keep_pid else _above(arguments, command)


def _above(arguments: argparse.Namespace, command: Sequence[str]) -> int:
    """Guard a child that is QEMU."""
    signals = _block_signals()
    from qmpguard.daemon.child import Child
    from qmpguard.daemon.openfiles import raise_limit
    from qmpguard.daemon.serve import serve

    with closing(Child(command, raise_limit())) as child:
        config = _read(arguments, command, child.detach())
        try:
            asyncio.run(serve(config, signals, child=child))
        except UnavailableError as error:
            if child.status is None:
                raise
            log.debug("the end of QEMU: %s", error)
    assert child.status is not None
    return child.status


def _beside(arguments: argparse.Namespace, command: Sequence[str]) -> int:
    """Become QEMU, and guard it in a child."""
    from qmpguard.daemon.parent import Parent, become_qemu

    def guard(parent: Parent, monitor: int) -> int:
        signals = _block_signals()
        from qmpguard.daemon.openfiles import raise_limit
        from qmpguard.daemon.serve import serve

        raise_limit()
        config = _read(arguments, command, monitor)
        parent.keep_only(_passed(config), arguments.log_file)
        asyncio.run(serve(config, signals, child=parent))
        return 0

    return become_qemu(command, guard)


def _block_signals() -> Signals:
    from qmpguard.signals import EXIT_BY_SIGNAL, HANDLED, TO_CHILD, Signals

    signals = Signals(HANDLED | TO_CHILD, exit_early=TO_CHILD, exit_code=lambda number: EXIT_BY_SIGNAL + number)
    signals.start()
    return signals


def _read(arguments: argparse.Namespace, command: Sequence[str], monitor: int) -> Config:
    """Return the config of a guard whose QEMU is at a descriptor, and begin its log."""
    from qmpguard.daemon.back_ends import back_ends
    from qmpguard.logs.stderr import log_to_stderr
    from qmpguard.settings.read import read_options

    config = read_options(OptionValues({**vars(arguments), "qemu": f"fd:{monitor}"}, _environ())).config
    log_to_stderr(config.log)
    _look_for_monitors(command, config.vms[0])
    return replace(config, vms=(replace(config.vms[0], netdevs=back_ends(command)), *config.vms[1:]))


def _passed(config: Config) -> list[int]:
    """Return the descriptors of the sockets that the guard is told to listen at."""
    addresses = [config.vms[0].listen, config.admin.listen if config.admin else None]
    return [address.number for address in addresses if isinstance(address, FdAddress)]


def _environ() -> dict[str, str]:
    """Return the environment without the variables of the options in `WITHOUT`."""
    unwanted = {option.variable for option in OPTIONS if option.flag in WITHOUT} | {"QMPGUARD_CONFIG"}
    return {name: value for name, value in os.environ.items() if name not in unwanted}


def _look_for_monitors(command: Sequence[str], vm: VmConfig) -> None:
    from qmpguard.daemon.monitors import monitors, possible_monitors
    from qmpguard.policy.mode import Mode
    from qmpguard.policy.rules import modes

    mode = dict(modes(vm.policy))["new-monitor"]
    if mode is Mode.OFF:
        return
    for found in monitors(command):
        if mode is Mode.ENFORCE:
            raise UsageError(f"{found} would open a way around the guard (rule new-monitor); leave it out")
        log.warning("%s opens a way around the guard", found)
    for found in possible_monitors(command):
        log.warning("%s may open a way around the guard", found)
