"""A QMP connection to a live VM, for commands that only query."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from qemu.qmp import QMPClient, QMPError

from qmpguard.address import FdAddress
from qmpguard.errors import UnavailableError
from qmpguard.policy.facts import Fact
from qmpguard.policy.survey import Unexpected, drive
from qmpguard.proxy.qemu.control import put
from qmpguard.proxy.sockets.dial import connect

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from qmpguard.address import Address
    from qmpguard.policy.survey import Answer, Query

T = TypeVar("T")

#: seconds for the greeting: QEMU sends it at once, unless another client holds the monitor
GREETING_TIMEOUT = 5.0
#: seconds for the answers; a QEMU that plugs a large VFIO device is busy for longer
ANSWER_TIMEOUT = 60.0
#: every fact that the rules read, except those about one request
ALL_FACTS = (
    Fact.CAPABILITIES,
    Fact.DEVICES,
    Fact.DETAILS,
    Fact.STANDBYS,
    Fact.BLOCKS,
    Fact.RUNSTATE,
    Fact.MIGRATION,
    Fact.PARAMETERS,
    Fact.SHARED,
)


class RemoteVm:
    """A QMP connection to a live QEMU, direct or through a guard."""

    def __init__(self, client: QMPClient, address: Address) -> None:
        self.version, self.package = _version(client)
        self._client = client
        self._address = address

    async def ask(self, questions: Generator[tuple[Query, ...], tuple[Answer, ...], T]) -> T:
        """Return the result of a survey. Raises `UnavailableError` when QEMU does not answer it."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                return await drive(questions, self._put)
        except TimeoutError as error:
            raise UnavailableError(f"{self._address}: QEMU did not answer within {ANSWER_TIMEOUT:g} s") from error
        except Unexpected as error:
            raise UnavailableError(f"{self._address}: an answer of QEMU could not be read: {error}") from error

    async def _put(self, queries: tuple[Query, ...]) -> tuple[Answer, ...]:
        return tuple(await asyncio.gather(*(put(self._client, query) for query in queries)))


@asynccontextmanager
async def open_vm(address: Address) -> AsyncGenerator[RemoteVm]:
    """Connect to a QEMU and yield it. Raises `UnavailableError` when no QEMU answers there."""
    logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # its errors are raised here as ours
    client = QMPClient("qmpguard")
    try:
        await _connect(client, address)
        yield RemoteVm(client, address)
    finally:
        with suppress(QMPError, OSError, EOFError):  # QEMU has closed: the missing answer has raised already
            await client.disconnect()


async def _connect(client: QMPClient, address: Address) -> None:
    try:
        sock = await connect(address)
    except (UnicodeError, OverflowError) as error:  # for a host's name or a descriptor's number that cannot be one
        raise UnavailableError(
            f"{address}: there is no such {'host' if isinstance(error, UnicodeError) else 'descriptor'}"
        ) from error
    except OSError as error:
        raise UnavailableError(f"{address}: {error.strerror or 'no answer'}") from error
    if isinstance(address, FdAddress):
        sock.setblocking(False)
    try:
        async with asyncio.timeout(GREETING_TIMEOUT):
            await client.connect(sock)
    except TimeoutError as error:
        sock.close()
        raise UnavailableError(
            f"{address}: it accepts connections but sends no greeting. QEMU serves one client of a monitor at a time, "
            "and another client has this monitor; if that client is a guard, give the guard's own socket"
        ) from error
    except (QMPError, OSError) as error:
        sock.close()
        raise UnavailableError(f"{address}: the answer there is not QMP: {error}") from error


def _version(client: QMPClient) -> tuple[str, str]:
    greeting = client.greeting
    assert greeting is not None, "it is connected"
    version = greeting.QMP.version
    qemu = version.get("qemu")
    numbers = [str(qemu.get(part, "?")) for part in ("major", "minor", "micro")] if isinstance(qemu, dict) else ["?"]
    return ".".join(numbers), str(version.get("package") or "")
