"""The options of `check` and `explain` that select the policy to judge by."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from qmpguard.errors import UsageError

if TYPE_CHECKING:
    from qmpguard.policy.mode import Mode
    from qmpguard.policy.policy import Policy
    from qmpguard.policy.qemu_check import QemuCheck


def add_policy_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that select the policy to judge by."""
    parser.add_argument("--config", metavar="FILE", help="judge as this file says, not as the guard there does")
    parser.add_argument("--vm", metavar="NAME", help="the VM of --config, where there are several")
    parser.add_argument("--profile", choices=("standard", "strict"), help="as if this were the policy's profile")
    parser.add_argument("--mode", choices=("enforce", "warn", "off"), help="as if this were the policy's mode")
    parser.add_argument("--rules", metavar="ID=MODE,...", help="as if these were the modes of single rules")
    types = "as if these types counted as VFIO too"
    parser.add_argument("--extra-types", action="append", default=[], metavar="TYPE,...", help=types)
    # the spelling of before version 0.2.0
    parser.add_argument("--extra-type", action="append", dest="extra_types", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="for programs")


def configured_policy(arguments: argparse.Namespace) -> Policy | None:
    """Return the policy of the file in --config; None without --config. Raises `QmpguardError`."""
    if arguments.config is None:
        if arguments.vm is not None:
            raise UsageError("--vm NAME is a VM of --config FILE")
        return None
    from qmpguard.settings.read import read_file

    vms = {vm.name: vm.policy for vm in read_file(arguments.config).config.vms}
    if arguments.vm is None and len(vms) == 1:
        return next(iter(vms.values()))
    if arguments.vm not in vms:
        raise UsageError(f"{arguments.config}: say --vm {' or --vm '.join(vms)}")
    return vms[arguments.vm]


def with_options(arguments: argparse.Namespace, policy: Policy) -> Policy:
    """Return a policy with the changes that the options make. Raises `UsageError`."""
    from qmpguard.policy.mode import Mode, Profile

    types = {kind for word in arguments.extra_types for kind in word.split(",") if kind}
    return replace(
        policy,
        mode=Mode(arguments.mode) if arguments.mode else policy.mode,
        profile=Profile(arguments.profile) if arguments.profile else policy.profile,
        rules={**policy.rules, **_modes(arguments.rules or "")},
        extra_types=policy.extra_types | types,
    )


def _modes(words: str) -> dict[str, Mode]:
    from qmpguard.policy.mode import Mode
    from qmpguard.policy.policy import Policy
    from qmpguard.policy.rules import modes

    known = dict(modes(Policy()))
    found = {}
    for word in filter(None, words.split(",")):
        rule, _, mode = word.partition("=")
        if rule not in known or mode not in [each.value for each in Mode]:
            raise UsageError(f"--rules {word}: write ID=MODE with a rule of `qmpguard rules`, and enforce, warn or off")
        found[rule] = Mode(mode)
    return found


def tell(text: str) -> None:
    """Print a notice about a wait to standard error."""
    from qmpguard.logs.descriptors import print_error

    print_error(f"qmpguard: {text}")


def qemu_check_members(qemu_check: QemuCheck) -> dict[str, str]:
    """Return QEMU's own check as members of a JSON object."""
    return {"refuses": qemu_check.refuses.value, "reason": qemu_check.reason}
