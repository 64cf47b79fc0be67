"""A tool that speaks QMP, as its bytes: what it sends in one go, and how it cuts what comes into messages.

That is all that such a tool can tell the guard from QEMU by. It fails where the tool would: when it cannot cut or
read a message, gets a reply to another request than its last one, or gets none.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Self

from tests.support.clients.sameness import plain
from tests.support.conformance.transcript import normal
from tests.support.guarding import TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

#: a line that Go's bufio.Scanner takes unless it is told otherwise (bufio.MaxScanTokenSize)
GO_LINE = 64 * 1024

Cut = Callable[[bytearray], Iterator[bytes]]


class Passing(Enum):
    """How a descriptor travels."""

    WITH = auto()  # in one sendmsg with its request
    BEFORE = auto()  # with a space, and the request follows


@dataclass(frozen=True)
class Ask:
    """One request, as the tool writes it."""

    data: bytes
    descriptor: Passing | None = None


@dataclass(frozen=True)
class Tool:
    """How a tool talks: a list of requests for each connection, one request after the other's reply."""

    name: str
    cut: Cut
    conversations: tuple[tuple[Ask, ...], ...]
    awaits_greeting: bool = True


class GivesUp(Exception):  # noqa: N818 -- what the tool does
    """The tool cannot go on."""


def go_lines(received: bytearray) -> Iterator[bytes]:
    """Cut as bufio.Scanner does."""
    while (end := received.find(b"\n")) >= 0:
        yield bytes(received[:end]).removesuffix(b"\r")
        del received[: end + 1]
    if len(received) >= GO_LINE:
        raise GivesUp("token too long")


def crlf(received: bytearray) -> Iterator[bytes]:
    """Cut at CR LF and nowhere else."""
    while (end := received.find(b"\r\n")) >= 0:
        yield bytes(received[:end])
        del received[: end + 2]


def perl_objects(received: bytearray) -> Iterator[bytes]:
    """Take all up to the last closing brace at a line's end, and split that into lines."""
    match = re.match(rb"(.*\})\r?\n", received, re.DOTALL)
    if match:
        lines = match[1].split(b"\n")
        del received[: match.end()]
        yield from lines


def talk(tool: Tool, path: Path) -> list[str]:
    """Play the tool to who listens at a path; return the messages that it was sent, in their normal form."""
    heard: list[str] = []
    try:
        for asks in tool.conversations:
            with _Connection(path, tool.cut, heard) as connection:
                if tool.awaits_greeting:
                    connection.hear_greeting()
                for ask in asks:
                    connection.send(ask)
                    connection.hear_reply(ask)
    except GivesUp as reason:
        heard.append(f"({tool.name} gives up: {reason})")
    return heard


class _Connection:
    def __init__(self, path: Path, cut: Cut, heard: list[str]) -> None:
        self._cut = cut
        self._heard = heard
        self._received = bytearray()
        self._messages: Iterator[bytes] = iter(())
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT)
        self._socket.connect(str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def hear_greeting(self) -> None:
        if "QMP" not in self._hear():
            raise GivesUp("no greeting")

    def hear_reply(self, ask: Ask) -> None:
        """Pass over events, and the greeting if nobody has waited for it."""
        while not (reply := self._hear()).keys() & {"return", "error"}:
            pass
        request = json.loads(ask.data)
        if reply.get("id") != request.get("id"):
            raise GivesUp(f"a reply to {reply.get('id')}, asked was {request}")

    def send(self, ask: Ask) -> None:
        if ask.descriptor is None:
            self._socket.sendall(ask.data)
            return
        number = os.open(os.devnull, os.O_RDWR)
        try:
            together = ask.descriptor is Passing.WITH
            socket.send_fds(self._socket, [ask.data if together else b" "], [number])
            if not together:
                self._socket.sendall(ask.data)
        finally:
            os.close(number)

    def _hear(self) -> dict[str, Any]:
        line = next(self._messages, None)
        while line is None:
            self._receive()
            self._messages = self._cut(self._received)
            line = next(self._messages, None)
        self._heard.append(plain(normal(line.decode("latin-1").rstrip("\r"))))
        try:
            message = json.loads(line)
        except ValueError as error:
            raise GivesUp(f"no JSON: {error}") from error
        if not isinstance(message, dict):
            raise GivesUp("no object")
        return message

    def _receive(self) -> None:
        try:
            data = self._socket.recv(4096)
        except TimeoutError:
            raise GivesUp("no answer") from None
        except ConnectionError as error:
            raise GivesUp(str(error)) from error
        if not data:
            raise GivesUp("end of file")
        self._received += data
