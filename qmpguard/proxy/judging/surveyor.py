"""Asks QEMU what a survey wants to know, one burst of questions after the other."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol, TypeVar

from qmpguard.errors import UnavailableError
from qmpguard.policy.bursts import drive

if TYPE_CHECKING:
    from collections.abc import Generator

    from qmpguard.policy.bursts import Answer, Query

T = TypeVar("T")


class AsksQemu(Protocol):
    """The guard's own session with QEMU: `qmpguard.proxy.qemu.control.Control`."""

    async def ask(self, queries: tuple[Query, ...]) -> tuple[Answer, ...]:
        """Return QEMU's answers in order. Raises `UnavailableError` when there are none."""
        ...


class Surveyor:
    """Asks one VM's QEMU. ``control`` is the guard's own session on the present link; None while there is no link."""

    def __init__(self) -> None:
        self.control: AsksQemu | None = None
        self._asking: float | None = None  # since when QEMU has had a question to answer

    async def ask(
        self,
        questions: Generator[tuple[Query, ...], tuple[Answer, ...], T],
        control: AsksQemu | None = None,
    ) -> T:
        """Ask a survey's questions to their end, all on one link: that of ``control``, or else the present one.

        Raises `UnavailableError` when that link is gone, and what the survey raises.
        """
        asked = control or self.control

        async def ask(queries: tuple[Query, ...]) -> tuple[Answer, ...]:
            answers = await asked.ask(queries) if asked is not None else ()
            if asked is None or asked is not self.control:
                raise UnavailableError("QEMU went away")
            return answers

        self._asking = time.monotonic()
        try:
            return await drive(questions, ask)
        finally:
            self._asking = None

    @property
    def waits_for(self) -> float:
        """The seconds for which QEMU has owed an answer; 0 where it owes none."""
        return 0.0 if self._asking is None else time.monotonic() - self._asking
