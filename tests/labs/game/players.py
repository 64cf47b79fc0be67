"""A player: a client behind the guard that connects again whenever its connection has ended."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

from tests.labs.game.moves import LEAVE
from tests.support.guarding import connected

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.guarding import Client
    from tests.support.scenes import Request


class Player:
    """One client."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = AsyncExitStack()
        self._client: Client | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def do(self, request: Request) -> Any:
        """Return the reply to a request; None where the connection ended. May raise TimeoutError."""
        if request == LEAVE:
            return await self._end()
        try:
            if self._client is None:
                self._client = await self._stack.enter_async_context(connected(self._path))
            return await self._client.ask(request["execute"], request.get("arguments"))
        except (ConnectionError, TypeError, AssertionError):  # no greeting, or no reply
            return await self._end()

    async def _end(self) -> None:
        self._client = None
        await self._stack.aclose()
