"""``qmpguard exec``: start a QEMU whose only monitor is the guard's."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from contextlib import closing
from typing import TYPE_CHECKING

from qmpguard.errors import UnavailableError, UsageError
from qmpguard.settings.options import OPTIONS, OptionValues

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qmpguard.config import VmConfig

SUMMARY = "start a QEMU whose only monitor is the guard's"
DESCRIPTION = (
    "Start a QEMU whose only monitor is the guard's, so that there is no way around it: no other process holds an end "
    "of the monitor's socket pair. Signals are forwarded to QEMU, and qmpguard exits with QEMU's status. A command "
    "line with another monitor is refused, or warned of where rule new-monitor only warns."
)

#: options of `run` that have no meaning here: QEMU's address, and how clients are served after QEMU has ended
WITHOUT = frozenset({"qemu", "qemu-listen", "takeover", "absent", "end-with-qemu"})

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`, and QEMU's command line."""
    for option in OPTIONS:
        if option.flag not in WITHOUT:
            option.add_to(parser)
    parser.usage = "qmpguard exec [options] -- QEMU [ARGUMENT ...]"
    parser.add_argument(
        "command", metavar="QEMU", nargs=argparse.REMAINDER, help="behind --: QEMU's program, and its arguments"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Guard QEMU until it ends, and return its exit status."""
    from qmpguard.signals import EXIT_BY_SIGNAL, HANDLED, TO_CHILD, Signals

    signals = Signals(HANDLED | TO_CHILD, exit_early=TO_CHILD, exit_code=lambda number: EXIT_BY_SIGNAL + number)
    signals.start()
    from qmpguard.daemon.child import Child
    from qmpguard.daemon.openfiles import raise_limit
    from qmpguard.daemon.serve import serve
    from qmpguard.logs.stderr import log_to_stderr
    from qmpguard.settings.read import read_options

    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise UsageError("exec needs QEMU's command line, behind --")
    with closing(Child(command, raise_limit())) as child:
        flags = {**vars(arguments), "qemu": f"fd:{child.detach()}"}
        config = read_options(OptionValues(flags, _environ())).config
        log_to_stderr(config.log)
        _look_for_monitors(command, config.vms[0])
        try:
            asyncio.run(serve(config, signals, child=child))
        except UnavailableError as error:
            if child.status is None:
                raise
            log.debug("the end of QEMU: %s", error)
    assert child.status is not None
    return child.status


def _environ() -> dict[str, str]:
    """Return the environment without the variables of the options in `WITHOUT`."""
    unwanted = {option.variable for option in OPTIONS if option.flag in WITHOUT} | {"QMPGUARD_CONFIG"}
    return {name: value for name, value in os.environ.items() if name not in unwanted}


def _look_for_monitors(command: Sequence[str], vm: VmConfig) -> None:
    from qmpguard.daemon.monitors import monitors, possible_monitors
    from qmpguard.policy.policy import Mode
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
