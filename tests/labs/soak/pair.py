"""The soak's second VM: a failover pair whose primary QEMU hides, which reloads move between names and sockets."""

from __future__ import annotations

import asyncio
import random
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tests.support.fakes.qemu import ForgetfulQemu
from tests.support.guarding import TIMEOUT, Client, capabilities
from tests.support.process import vm_table

if TYPE_CHECKING:
    from pathlib import Path

    from tests.labs.soak.client import Tally

#: seconds between two reloads
MOVE = (0.5, 3.0)
#: seconds between two requests of a client, at most
PAUSE = 0.02
_PRIMARY = {"driver": "vfio-pci", "id": "gpu0", "host": "0000:65:00.0", "failover_pair_id": "net0"}
_STANDBY = {"driver": "virtio-net-pci", "id": "net0", "failover": True}
_ASKS: tuple[tuple[str, dict[str, Any] | None], ...] = (
    ("device_add", _PRIMARY),
    ("device_add", _STANDBY),
    ("device_del", {"id": "net0"}),
    ("migrate-set-capabilities", capabilities(postcopy_ram=True)),
    ("migrate-set-capabilities", capabilities(postcopy_ram=False)),
    ("migrate", {"uri": "tcp:192.0.2.1:1"}),
    ("query-status", None),
)


class PairQemu(ForgetfulQemu):
    """A fake QEMU with a failover standby, which hides its primary."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.devices["net0"] = "virtio-net-pci"
        self.answers["device_add"] = self._add
        self.answers["qom-get"] = self._get

    def _add(self, request: dict[str, Any]) -> Any:
        arguments = request.get("arguments", {})
        if "failover_pair_id" not in arguments:
            self.devices[arguments["id"]] = arguments["driver"]
        return {}

    def _get(self, request: dict[str, Any]) -> Any:
        return request.get("arguments") == {"path": "/machine/peripheral/net0", "property": "failover"}


class Pair:
    """The VM, its place at the moment, and clients that follow it there."""

    def __init__(self, folder: Path, tally: Tally) -> None:
        self._folder = folder
        self._tally = tally
        self._place = 0
        self._moved = 0.0  # when it was last moved
        self.qemu = PairQemu(folder / "pair.qemu")

    def config(self) -> str:
        """Return the config of the VM where it is now: two names, two sockets, with and without its primary exempt."""
        name, socket = f"pair{self._place & 1}", f"pair{self._place >> 1 & 1}"
        exempt = str(self._place >> 2 & 1 == 1).lower()
        return vm_table(
            self._folder,
            name,
            qemu=f'"{self.qemu.path}"',
            listen=f'"{self._folder / socket}.sock"',
            policy=f"{{ allow_failover_primary = {exempt} }}",
        )

    async def move(self, process: asyncio.subprocess.Process, config: Path, first: str, end: float) -> None:
        """Move the VM again and again; now and then by a file that is bad, which changes nothing."""
        loop = asyncio.get_running_loop()
        while loop.time() < end:
            await asyncio.sleep(random.uniform(*MOVE))
            bad = random.random() < 0.2
            if not bad:
                self._place = random.randrange(8)
                self._moved = loop.time()
            config.write_text(first + self.config() + ("nonsense = [" * 9 if bad else ""))
            process.send_signal(signal.SIGHUP)
            self._tally.counts["reloads"] += 1

    async def follow(self, end: float) -> None:
        """Converse with the VM wherever it is; being cut off is right when it was moved."""
        loop = asyncio.get_running_loop()
        while loop.time() < end:
            begun = loop.time()
            try:
                await self._converse(self._folder / f"pair{self._place >> 1 & 1}.sock")
            except TimeoutError:
                self._tally.faults.append("a client of the failover pair waits for a reply")
            except (OSError, EOFError) as error:
                await asyncio.sleep(0.1)
                if self._moved + TIMEOUT < begun:
                    self._tally.faults.append(f"a client of the failover pair was cut off: {error!r}")

    async def _converse(self, path: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(path, limit=1 << 26)
        client = Client(reader, writer)
        try:
            await self._take(client)
            client.send({"execute": "qmp_capabilities"})
            await self._take(client)
            for number in range(random.randrange(20)):
                command, arguments = random.choice(_ASKS)
                client.send({"execute": command, "id": number, **({"arguments": arguments} if arguments else {})})
                reply = await self._take(client)
                if reply.get("id") != number:
                    self._tally.faults.append(f"the failover pair answered {str(reply)[:200]} to {number}")
                await asyncio.sleep(random.random() * PAUSE)
                self._tally.counts["requests to a failover pair"] += 1
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _take(self, client: Client) -> dict[str, Any]:
        while (message := await client.receive()) is not None:
            if "event" not in message:
                assert isinstance(message, dict)
                return message
        raise EOFError("the connection ended")
