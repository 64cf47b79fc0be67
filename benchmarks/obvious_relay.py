"""The obvious proxy: what one would write first, with qemu.qmp. It judges nothing, passes no events, serves one client.

As a process: `python -m benchmarks.obvious_relay QEMU LISTEN`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from functools import partial

from qemu.qmp import ExecuteError, QMPClient


async def serve(qemu: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on one request after the other."""
    qmp = QMPClient("relay")
    await qmp.connect(qemu)
    assert qmp.greeting is not None
    writer.write(json.dumps(qmp.greeting._asdict()).encode() + b"\r\n")
    while line := await reader.readline():
        request = json.loads(line)
        identity = request.pop("id", None)
        try:
            # the relay has negotiated already
            negotiates = request["execute"] == "qmp_capabilities"
            reply = {"return": {} if negotiates else await qmp.execute_msg(request)}
        except ExecuteError as error:
            reply = {"error": {"class": error.error_class, "desc": str(error)}}
        writer.write(json.dumps(reply if identity is None else {**reply, "id": identity}).encode() + b"\r\n")
        await writer.drain()
    await qmp.disconnect()


async def relay(qemu: str, listen: str) -> None:
    """Serve until killed."""
    async with await asyncio.start_unix_server(partial(serve, qemu), listen) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(relay(*sys.argv[1:]))
