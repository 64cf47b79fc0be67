"""The schemas of the QEMUs of a process. Each is read once and shared by all VMs with the same QEMU."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from qmpguard.errors import UnavailableError
from qmpguard.policy.bursts import Query, Unexpected
from qmpguard.policy.readers import unknown_arguments
from qmpguard.policy.schema import Schema, read_schema

if TYPE_CHECKING:
    from qmpguard.policy.bursts import Answer
    from qmpguard.proxy.judging.surveyor import AsksQemu
    from qmpguard.tasks import Tasks
    from qmpguard.wire.qemu_messages import Greeting

log = logging.getLogger(__name__)

#: seconds for QEMU's answer; it takes a twentieth of a second when QEMU is not busy
TIMEOUT = 60.0
#: schemas that are kept, of thirty KiB each
MAX_SCHEMAS = 64


class Schemas:
    """The schemas that were read, by version, package and target: the schema of one version differs by target.

    A VM never waits for the QEMU of another VM: it queries its own QEMU, even while the same schema is being read from
    another. ``turn`` serializes the reads that no verdict waits for.
    """

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self._known: dict[tuple[str, str], Schema] = {}

    async def learn(self, greeting: Greeting, control: AsksQemu) -> Schema:
        """Return a QEMU's schema; query it unless the same one was read before.

        Logs a warning for each argument that no reader knows. Raises `TimeoutError`, `UnavailableError` or
        `Unexpected`.
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
        for command, argument in unknown_arguments(schema):
            log.warning(
                "QEMU %s: %s has an argument %r that qmpguard does not know; requests with it will be refused",
                *(version, command, argument),
            )
        return schema


class VmSchema:
    """The schema of one VM's QEMU. ``known`` is None until it was read.

    It is read for the first verdict that needs it, or else when the first client was served (``is_wanted``), so that
    mostly no client waits for it.
    """

    def __init__(self, vm: str, schemas: Schemas) -> None:
        self.known: Schema | None = None
        self.is_wanted = False
        self._vm = vm
        self._schemas = schemas
        self._link: tuple[Greeting, AsksQemu] | None = None

    @property
    def commands(self) -> frozenset[str] | None:
        """The commands that QEMU has; None until they were read."""
        return None if self.known is None else self.known.commands

    def connect(self, greeting: Greeting, control: AsksQemu) -> None:
        """Use a new link."""
        self._link = greeting, control
        self.is_wanted = self.known is None

    def disconnect(self) -> None:
        """Called when the link is lost."""
        self._link = None
        self.is_wanted = False

    def forget(self) -> None:
        """Forget the schema, since the next link may lead to another QEMU."""
        self.known = None

    async def learn(self) -> None:
        """Read the schema. Raises `TimeoutError`, `UnavailableError` or `Unexpected`."""
        link = self._link
        if link is None:
            raise UnavailableError("QEMU went away")
        schema = await self._schemas.learn(*link)
        if link is self._link:
            self.known, self.is_wanted = schema, False

    def learn_soon(self, tasks: Tasks) -> None:
        """Read the schema in a task. If that fails, the next request of a client tries again."""
        self.is_wanted = False
        tasks.start("schema", self._learn_soon())

    async def _learn_soon(self) -> None:
        try:
            async with self._schemas.turn:  # each one is 200 KB to parse; a verdict that needs one does not wait
                await self.learn()
        except (TimeoutError, UnavailableError, Unexpected) as error:
            log.info("vm=%s the schema was not read: %s", self._vm, str(error) or "QEMU did not answer in time")
        finally:
            self.is_wanted = self.known is None and self._link is not None


def _architecture(target: Answer) -> str:
    """Return the target in the answer to `query-target`; empty where QEMU has none, as qemu-storage-daemon."""
    match target:
        case {"arch": str(name)}:
            return name
        case _:
            return ""
