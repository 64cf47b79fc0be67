"""Relaxing a policy for an override: rules warn instead of refusing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from qmpguard.policy.mode import Mode
from qmpguard.policy.policy import Policy
from qmpguard.policy.rules import modes


def relaxed(policy: Policy, rules: Iterable[str | None]) -> Policy:
    """Return a policy in which these rules warn at most; None among them means all rules. No rule becomes stricter."""
    named = frozenset(rules)
    weaker = {rule: Mode.weaker(mode, Mode.WARN) for rule, mode in modes(policy) if None in named or rule in named}
    return replace(policy, rules={**policy.rules, **weaker}) if weaker else policy
