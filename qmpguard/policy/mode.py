"""The two choices that a policy makes for every rule: the mode, and the profile that sets its default."""

from __future__ import annotations

from enum import Enum


class Mode(Enum):
    """The effect of a violated rule: refuse, warn, or nothing."""

    ENFORCE = "enforce"
    WARN = "warn"
    OFF = "off"

    @classmethod
    def weaker(cls, one: Mode, other: Mode) -> Mode:
        """Return the weaker of two modes: with a global ``warn`` no rule refuses."""
        order = (cls.OFF, cls.WARN, cls.ENFORCE)
        return order[min(order.index(one), order.index(other))]


class Profile(Enum):
    """The threat that the guard protects against: mistakes of honest tools; strict: also hostile clients."""

    STANDARD = "standard"
    STRICT = "strict"
