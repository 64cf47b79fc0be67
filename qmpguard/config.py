"""What a guard is told to do, checked once and frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from qmpguard.policy.policy import Policy

if TYPE_CHECKING:
    from qmpguard.address import Address, ListenAddress


class Role(Enum):
    """What the clients of a socket may do."""

    OPERATOR = "operator"
    OBSERVER = "observer"


@dataclass(frozen=True, slots=True)
class VmConfig:
    """One VM: where its QEMU is, where its clients come in, and what is judged how. Times are in seconds."""

    name: str
    qemu: Address
    listen: ListenAddress
    policy: Policy = field(default_factory=Policy)
    survey_timeout: float = 60.0
    watch: float = 30.0
    socket_mode: int = 0o600


@dataclass(frozen=True, slots=True)
class AdminConfig:
    """Where the admin interface listens, and the file with the token that TCP asks for."""

    listen: Address
    token_file: str | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that one process guards."""

    vms: tuple[VmConfig, ...]
    admin: AdminConfig | None = None
