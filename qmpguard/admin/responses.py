"""HTTP responses: a small one is sent at once with its length, a large one in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qmpguard.admin.slices import Slices

JSON = "application/json; charset=utf-8"


async def stream_json(
    request: web.Request, slices: Slices, steps: Iterator[bytes], *, content_type: str = JSON, status: int = 200
) -> web.StreamResponse:
    """Send the output of steps. At most one piece is in memory, beside the transport's buffer."""
    first = b"".join(await slices.slice(steps))
    more = await slices.slice(steps)
    if not more:
        return web.Response(body=first, status=status, headers={"Content-Type": content_type})
    response = web.StreamResponse(status=status, headers={"Content-Type": content_type})
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    await response.write(first)
    while more:
        await response.write(b"".join(more))
        more = await slices.slice(steps)
    return response


async def send_pieces(request: web.Request, pieces: list[bytes], content_type: str) -> web.StreamResponse:
    """Send a body that is built already, in pieces."""
    if len(pieces) <= 1 or request.method == "HEAD":
        return web.Response(body=b"".join(pieces), headers={"Content-Type": content_type})
    response = web.StreamResponse(headers={"Content-Type": content_type})
    response.content_length = sum(map(len, pieces))
    await response.prepare(request)
    for piece in pieces:
        await response.write(piece)
    return response


def json_list(head: bytes, items: Iterable[bytes], tail: bytes) -> Iterator[bytes]:
    """Yield the steps of a JSON list between a head and a tail. An empty item is skipped."""
    yield head
    comma = b""
    for item in items:
        if item:
            yield comma + item
            comma = b","
        else:
            yield b""
    yield tail
