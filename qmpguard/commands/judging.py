"""What `check` and `explain` have in common: by which policy they judge, and how they say what QEMU itself would do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from qmpguard.policy.native import Native
    from qmpguard.policy.policy import Policy


def add_policy_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say by which policy to judge."""
    parser.add_argument("--profile", choices=("standard", "strict"), default="standard", help="the policy's profile")
    parser.add_argument(
        "--extra-type", action="append", default=[], metavar="TYPE", help="a QOM type that counts as VFIO too"
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def policy_of(arguments: argparse.Namespace) -> Policy:
    """Return the policy that the options ask for."""
    from qmpguard.policy.policy import Policy, Profile

    return Policy(profile=Profile(arguments.profile), extra_types=frozenset(arguments.extra_type))


def native_words(native: Native) -> dict[str, str]:
    """Return what QEMU itself would do, for programs."""
    return {"refuses": native.refuses.value, "reason": native.reason}
