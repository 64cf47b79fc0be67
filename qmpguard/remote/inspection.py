"""A QMP connection to a live VM, for commands that only query."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from qemu.qmp import QMPClient, QMPError

from qmpguard.address import FdAddress
from qmpguard.errors import UnavailableError
from qmpguard.policy.bursts import Unexpected, drive
from qmpguard.policy.facts import Fact
from qmpguard.proxy.listening.moved_socket import takeover_hint
from qmpguard.proxy.sockets.dial import connect
from qmpguard.remote.client import QuietClient, put
from qmpguard.remote.listening import listening, why_silent

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterator

    from qmpguard.address import Address
    from qmpguard.policy.bursts import Answer, Query

T = TypeVar("T")

#: seconds for the greeting: QEMU sends it at once, unless another client holds the monitor
GREETING_TIMEOUT = 5.0
#: seconds for the answers; a QEMU that plugs a large VFIO device is busy for longer
ANSWER_TIMEOUT = 60.0
#: seconds of a wait before a notice about it
NOTICE_DELAY = 2.0
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
    Fact.NICS,
)


class RemoteVm:
    """A QMP connection to a live QEMU, direct or through a guard. ``client`` is the connection itself."""

    def __init__(self, client: QMPClient, address: Address, tell: Callable[[str], None]) -> None:
        self.version, self.package = _version(client)
        self.client = client
        self._address = address
        self._tell = tell

    async def ask(self, questions: Generator[tuple[Query, ...], tuple[Answer, ...], T]) -> T:
        """Return the result of a survey. Raises `UnavailableError` when QEMU does not answer it."""
        text = f"{self._address}: no answer of QEMU yet, it is busy or hangs. Waiting for {ANSWER_TIMEOUT:g} s at most"
        try:
            with notice(self._tell, text):
                async with asyncio.timeout(ANSWER_TIMEOUT):
                    return await drive(questions, self._put)
        except TimeoutError as error:
            raise UnavailableError(f"{self._address}: QEMU did not answer within {ANSWER_TIMEOUT:g} s") from error
        except Unexpected as error:
            raise UnavailableError(f"{self._address}: an answer of QEMU could not be read: {error}") from error

    async def _put(self, queries: tuple[Query, ...]) -> tuple[Answer, ...]:
        return tuple(await asyncio.gather(*(put(self.client, query) for query in queries)))


def ignore(_: str) -> None:
    """Print no notice."""


@contextmanager
def notice(tell: Callable[[str], None], text: str) -> Iterator[None]:
    """Call ``tell`` with a text when the body takes longer than `NOTICE_DELAY`."""
    timer = asyncio.get_running_loop().call_later(NOTICE_DELAY, tell, text)
    try:
        yield
    finally:
        timer.cancel()


@asynccontextmanager
async def open_vm(address: Address, tell: Callable[[str], None] = ignore) -> AsyncGenerator[RemoteVm]:
    """Connect to a QEMU and yield it; ``tell`` is called with a notice about a long wait.

    Raises `UnavailableError` when no QEMU answers there.
    """
    logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # its errors are raised here as ours
    client = QuietClient("qmpguard")
    try:
        await _connect(client, address, tell)
        yield RemoteVm(client, address, tell)
    finally:
        with suppress(QMPError, OSError, EOFError):  # QEMU has closed: the missing answer has raised already
            await client.disconnect()


async def _connect(client: QMPClient, address: Address, tell: Callable[[str], None]) -> None:
    try:
        sock = await connect(address)
    except (UnicodeError, OverflowError) as error:  # for a host's name or a descriptor's number that cannot be one
        raise UnavailableError(
            f"{address}: there is no such {'host' if isinstance(error, UnicodeError) else 'descriptor'}"
        ) from error
    except OSError as error:
        raise UnavailableError(f"{address}: {error.strerror or 'no answer'}{takeover_hint(address)}") from error
    if isinstance(address, FdAddress):
        sock.setblocking(False)
    process = listening(sock)
    try:
        with notice(tell, f"{address}: no greeting yet. Waiting for {GREETING_TIMEOUT:g} s at most"):
            async with asyncio.timeout(GREETING_TIMEOUT):
                await client.connect(sock)
    except TimeoutError as error:
        sock.close()
        why = why_silent(process, address)
        raise UnavailableError(f"{address}: it accepts connections but sends no greeting: {why}") from error
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
