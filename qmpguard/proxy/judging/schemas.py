"""The schemas of the QEMUs that a process has met, each read once and shared by all VMs."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from qmpguard.policy.readers import unread
from qmpguard.policy.schema import Schema, read_schema
from qmpguard.policy.survey import Query, Unexpected

if TYPE_CHECKING:
    from qmpguard.policy.survey import Answer
    from qmpguard.proxy.judging.gate import AsksQemu
    from qmpguard.wire.qemu_messages import Greeting

log = logging.getLogger(__name__)

#: seconds that QEMU may take for its schema; it takes a twentieth of a second when it is not busy
TIMEOUT = 60.0
#: schemas that are kept, of thirty KiB each; a host with more kinds of QEMU reads some of them again
MAX_SCHEMAS = 64


class Schemas:
    """Keeps commands and the names of their arguments only, by version, package and target.

    QEMUs of one version have another schema for each target. Nobody waits for the QEMU of another VM: who needs a
    schema asks its own QEMU, be there another one that is asked for the same. ``turn`` is for those who can wait.
    """

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self._known: dict[tuple[str, str], Schema] = {}

    async def learn(self, greeting: Greeting, control: AsksQemu) -> Schema:
        """Return a QEMU's schema, reading it where none like it was read yet.

        Warns of arguments that no reader knows. Raises `TimeoutError`, `UnavailableError` or `Unexpected`.
        """
        version = f"{greeting.version} {greeting.package}".strip()
        async with asyncio.timeout(TIMEOUT):
            (target,) = await control.ask((Query("query-target", optional=True),))
            key = version, _architecture(target)
            if (schema := self._known.get(key)) is not None:
                return schema
            (answer,) = await control.ask((Query("query-qmp-schema"),))
        try:
            schema = read_schema(answer)
        except ValueError as error:
            raise Unexpected(f"query-qmp-schema: {error}") from error
        if len(self._known) >= MAX_SCHEMAS:
            del self._known[next(iter(self._known))]
        self._known[key] = schema
        for command, argument in unread(schema):
            log.warning(
                "QEMU %s: %s has an argument %r that qmpguard does not know; requests with it will be refused",
                *(version, command, argument),
            )
        return schema


def _architecture(target: Answer) -> str:
    """Return what `query-target` says; nothing of a QEMU that has no machine, as qemu-storage-daemon."""
    match target:
        case {"arch": str(name)}:
            return name
        case _:
            return ""
