"""An answer, sent as it is made: small ones at once with their length, large ones a piece at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qmpguard.admin.slices import Slices

JSON = "application/json; charset=utf-8"


async def answer(
    request: web.Request, pace: Slices, steps: Iterator[bytes], *, kind: str = JSON, status: int = 200
) -> web.StreamResponse:
    """Answer what the steps make. No more of it is held than a piece and what the transport has not written."""
    first = b"".join(await pace.slice(steps))
    more = await pace.slice(steps)
    if not more:
        return web.Response(body=first, status=status, headers={"Content-Type": kind})
    response = web.StreamResponse(status=status, headers={"Content-Type": kind})
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    await response.write(first)
    while more:
        await response.write(b"".join(more))
        more = await pace.slice(steps)
    return response


async def send(request: web.Request, pieces: list[bytes], kind: str) -> web.StreamResponse:
    """Answer what was made before, a piece at a time."""
    if len(pieces) <= 1 or request.method == "HEAD":
        return web.Response(body=b"".join(pieces), headers={"Content-Type": kind})
    response = web.StreamResponse(headers={"Content-Type": kind})
    response.content_length = sum(map(len, pieces))
    await response.prepare(request)
    for piece in pieces:
        await response.write(piece)
    return response


def listing(head: bytes, items: Iterable[bytes], tail: bytes) -> Iterator[bytes]:
    """Yield the steps of a JSON list between a head and a tail. An item that is empty is none."""
    yield head
    comma = b""
    for item in items:
        if item:
            yield comma + item
            comma = b","
        else:
            yield b""
    yield tail
