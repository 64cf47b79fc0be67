"""The schemas of the QEMU versions that a process has met, each read once and shared by all VMs."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from qmpguard.policy.readers import unread
from qmpguard.policy.schema import Schema, read_schema
from qmpguard.policy.survey import Query, Unexpected

if TYPE_CHECKING:
    from qmpguard.proxy.gate import Control
    from qmpguard.wire.replies import Greeting

log = logging.getLogger(__name__)

#: seconds that QEMU may take for its schema; it takes a twentieth of a second when it is not busy
PATIENCE = 60.0


class Schemas:
    """Keeps commands and the names of their arguments only; reads one schema at a time."""

    def __init__(self) -> None:
        self._known: dict[str, Schema] = {}
        self._turn = asyncio.Lock()

    def get(self, greeting: Greeting) -> Schema | None:
        """Return the schema of a version if it was read already."""
        return self._known.get(_version(greeting))

    async def learn(self, greeting: Greeting, control: Control) -> Schema:
        """Return the schema of a version, reading it where that was not done yet.

        Warns of arguments that no reader knows. Raises `TimeoutError`, `UnavailableError` or `Unexpected`.
        """
        version = _version(greeting)
        async with asyncio.timeout(PATIENCE), self._turn:
            if (schema := self._known.get(version)) is not None:
                return schema
            (answer,) = await control.ask((Query("query-qmp-schema"),))
            try:
                schema = read_schema(answer)
            except ValueError as error:
                raise Unexpected(f"query-qmp-schema: {error}") from error
            for command, argument in unread(schema):
                log.warning(
                    "QEMU %s: %s has an argument %r that qmpguard does not know; requests with it will be refused",
                    *(version, command, argument),
                )
            self._known[version] = schema
            return schema


def _version(greeting: Greeting) -> str:
    return f"{greeting.version} {greeting.package}".strip()
