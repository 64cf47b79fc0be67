"""Makes the recording of a bare QEMU that the simulator needs: `python -m tests.labs.capture ADDR FILE.jsonl.xz`."""

from __future__ import annotations

import asyncio
import lzma
import sys
from pathlib import Path

from qemu.qmp import ExecuteError

from qmpguard.address import parse_address
from qmpguard.recording.lines import Exchange, LinkUp, Members, RecordingBegins, write_line
from qmpguard.remote.inspection import open_vm
from qmpguard.simulator.versions import QUERIES
from qmpguard.wire.json import encode


async def capture(address: str) -> bytes:
    """The replies of the QEMU at an address."""
    async with open_vm(parse_address(address)) as vm:
        lines = [write_line(RecordingBegins()), write_line(LinkUp("vm", vm.version))]
        for command in QUERIES:
            try:
                reply: Members = {"return": await vm.client.execute(command)}  # type: ignore[dict-item]
            except ExecuteError as error:
                reply = {"error": {"class": error.error_class, "desc": str(error)}}
            lines.append(write_line(Exchange("vm", command, None, reply)))
    return b"".join(encode(line) + b"\n" for line in lines)


if __name__ == "__main__":
    address, name = sys.argv[1:]
    Path(name).write_bytes(lzma.compress(asyncio.run(capture(address)), preset=9 | lzma.PRESET_EXTREME))
