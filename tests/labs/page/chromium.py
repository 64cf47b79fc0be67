"""A headless Chromium, spoken to in its own words: the DevTools protocol over a web socket."""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.support.guarding import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

#: seconds for the browser to start, and for anything to appear on a page
START, APPEAR = 60.0, 30.0
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--disable-background-networking",
    "--hide-scrollbars",
)


class Page:
    """One page. What it logs as an error is kept in ``errors``."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.errors: list[str] = []
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def read(self) -> None:
        """Take what the browser says, until it ends."""
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            elif said["method"] == "Runtime.exceptionThrown":
                self.errors.append(str(said["params"]["exceptionDetails"]))
            elif said["method"] == "Log.entryAdded" and said["params"]["entry"]["level"] == "error":
                self.errors.append(said["params"]["entry"]["text"])

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        number = next(self._numbers)
        self._answers[number] = answer = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(START):
            said = await answer
        assert "error" not in said, said
        result: dict[str, Any] = said["result"]
        return result

    async def open(self, url: str) -> None:
        await self.call("Page.enable")
        await self.call("Runtime.enable")
        await self.call("Log.enable")
        await self.call("Page.navigate", url=url)

    async def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until an expression is true; what is not there yet is not."""
        script = f"(() => {{ try {{ return {script} }} catch {{ return false }} }})()"
        try:
            async with asyncio.timeout(APPEAR):
                while not await self.evaluate(script):  # noqa: ASYNC110 -- a page announces nothing
                    await asyncio.sleep(0.05)
        except TimeoutError:
            text = await self.evaluate("document.body.innerText")
            raise AssertionError(f"never true: {script}\nthe page says:\n{text}\n{self.errors}") from None

    async def shows(self, selector: str, text: str) -> None:
        """Wait until an element that matches has a text in it."""
        has = f"e.innerText.toLowerCase().includes({text.lower()!r})"
        await self.until(f"[...document.querySelectorAll({selector!r})].some(e => {has})")

    async def size(self, width: int, height: int, *, dark: bool = False) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def press(self, key: str) -> None:
        """Press a key and let it go."""
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=9)

    async def picture(self, path: Path, *, whole: bool = True) -> None:
        picture = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))


@asynccontextmanager
async def browsing(folder: Path) -> AsyncGenerator[Page]:
    """Start a browser with one empty page."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    assert binary, "these tests need Chromium: apt-get install chromium"
    process = await asyncio.create_subprocess_exec(
        binary, *_FLAGS, f"--user-data-dir={folder}", "about:blank",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port = await _port(folder / "DevToolsActivePort")
        async with aiohttp.ClientSession() as http:
            async with http.get(f"http://127.0.0.1:{port}/json/list") as response:
                targets = await response.json()
            url = next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
            async with http.ws_connect(url, max_msg_size=1 << 26) as socket, asyncio.TaskGroup() as tasks:
                page = Page(socket)
                reading = tasks.create_task(page.read())
                try:
                    yield page
                finally:
                    reading.cancel()
    finally:
        process.terminate()
        async with asyncio.timeout(TIMEOUT):
            await process.wait()


async def _port(path: Path) -> int:
    async with asyncio.timeout(START):
        while not (path.exists() and path.read_text().count("\n")):  # noqa: ASYNC110 -- nor does a browser
            await asyncio.sleep(0.05)
    return int(path.read_text().splitlines()[0])
