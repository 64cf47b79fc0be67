"""The same bytes to a real QEMU and to the framer: both complain about the same things in the same words.

QEMU 7.2 reads its monitor byte by byte, some 100 KB a second: the limits of size and count are not tried here.
"""

from __future__ import annotations

import itertools
import json
import shutil
import socket
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING, Protocol

import pytest
from hypothesis import given, settings

from qmpguard.wire.framing import Framer, Malformed
from qmpguard.wire.json import encode
from tests.wire.test_framing import CASES, STREAMS
from tests.wire.test_json import SPELLINGS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from qmpguard.wire.json import Value

pytestmark = pytest.mark.qemu

QEMU = "qemu-system-x86_64"
NO_OBJECT = "QMP input must be a JSON object"
#: what the dispatcher makes of an object is not the framer's business
AN_OBJECT = "(an object)"


class Monitor:
    """A connection to a QEMU, past the negotiation."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._numbers = itertools.count()
        self._lines.readline()
        self.ask(b"{'execute': 'qmp_capabilities'}")

    def close(self) -> None:
        self._lines.close()
        self._connection.close()

    def ask(self, data: bytes) -> list[bytes]:
        """Send bytes, begin anew, and return the lines that QEMU had to say to them."""
        self._connection.sendall(data + self.end(next(self._numbers)))
        lines: list[bytes] = []
        while b'"return"' not in (line := self._lines.readline()) or b'"the end ' not in line:
            assert line, f"QEMU is gone at {data!r}"
            lines.append(line)
        return lines

    @staticmethod
    def end(number: int) -> bytes:
        return b'\xff\n{"execute": "query-status", "id": "the end %d"}\n' % number

    def complaints(self, data: bytes) -> list[str]:
        return [self._complaint(json.loads(line)) for line in self.ask(data)]

    @staticmethod
    def _complaint(reply: Reply) -> str:
        desc = str(reply["error"]["desc"]) if "error" in reply else AN_OBJECT
        return desc if desc.startswith("JSON ") or desc == NO_OBJECT else AN_OBJECT


class Reply(Protocol):
    """A reply of QEMU as the standard library reads it."""

    def __contains__(self, key: object) -> bool: ...
    def __getitem__(self, key: str) -> dict[str, object]: ...


def our_complaints(data: bytes) -> list[str]:
    """Return what the framer makes of the same bytes; the last item is the command at the end."""
    framer = Framer()
    framer.feed(data + Monitor.end(0))
    complaints: list[str] = []
    while item := framer.pull_whole():
        if isinstance(item, Malformed):
            complaints.append(item.desc)
        else:
            complaints.append(AN_OBJECT if isinstance(item.value, dict) else NO_OBJECT)
    assert complaints.pop() == AN_OBJECT
    return complaints


@pytest.fixture(scope="module")
def monitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitor]:
    program = shutil.which(QEMU)
    if program is None:
        pytest.fail(f"{QEMU} is not installed: these tests compare with it", pytrace=False)
    path = tmp_path_factory.mktemp("qemu") / "qmp"
    with listening(path) as listener:
        arguments = ["-M", "none", "-nodefaults", "-display", "none", "-qmp", f"unix:{path}"]
        with subprocess.Popen([program, *arguments]) as process:
            try:
                connection, _ = listener.accept()
                connection.settimeout(60)
                with closing(Monitor(connection)) as monitor:
                    yield monitor
            finally:
                process.kill()


def listening(path: Path) -> socket.socket:
    """Return the socket that QEMU connects to: so there is nothing to wait for in a loop."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    listener.settimeout(30)
    return listener


ODD = [
    *(data for data, _ in CASES),
    b"{'execute': 'query-status', 'id': 1}{'execute': 'query-status'}",
    b"{'execute': 'nothing'}[{'execute': 'nothing'}]",
    b"{}{}{}",
    b"{'\\u0061': 1, 'a': 2}",
    b"{\"a\": 1, 'a': 2}",
    b"{'a': 1, 'b': 2, 'a': [1 2]}",
    b"{'a' 'b' 'c'}",
    b"{'a': 'b' 'c'}",
    b"{'a'::1}",
    b"{:}",
    b"{true:1}",
    b"{1.5}",
    b"{'a'",
    b"{'a':",
    b"[1,",
    b"[[[[",
    b"[}{]",
    b"{[}]}",
    b"((()))",
    b"[1,2,,3]",
    b"[nan, inf]",
    b"falsetrue",
    b"false true null",
    b"1 2 3 -4",
    b"--1",
    b"-",
    b"1-1",
    b"1+1",
    b"1.0.0",
    b"1e5e5",
    b"1E+",
    b"00",
    b"-00",
    b"0.",
    b"0.e1",
    b"0e",
    b"0_1",
    b"9" * 400,
    b"1" + b"0" * 400 + b".5e-400",
    b"\x00",
    b"\x00\x00{}",
    b"\x0b{}",
    b"\x0c[]",
    b"\x7f{}",
    b"\x80{}",
    b"\xc2\xa0{}",
    b"\xfe\xff\x00{\x00}",
    b"\xff\xfe{\x00}\x00",
    b'"\x1f"',
    b'"\x7f"',
    b'"abc\xfedef"',
    b"'abc\\\xff'",
    b'"\\',
    b"'\\\\\\'",
    b'"\\u00"',
    b'"\\u00e"',
    b'"\\uXYZW"',
    b'"\\u 123"',
    b'"\\u12"34"',
    b'"\\ud83d\\n"',
    b'"\\ud83dx"',
    b'"\\ud83d\\u"',
    b'"\\ud83d\\ude0"',
    b'"\\udbff\\udfff"',
    b'"\\ud800\\udc00"',
    b'"\\uFFFF"',
    b'"\\ufdf0\\ufdcf"',
    b"'\\u\xe2\x82\xac'",
    b"'\\u1\xe2\x82\xac'",
    b"'\\u1\xf0\x9f\x98\x80'",
    b'"\xed\xbf\xbf"',
    b'"\xf4\x8f\xbf\xbd"',
    b'"\xf4\x8f\xbf\xbf"',
    b'"\xf5\x80\x80\x80"',
    b'"\xf0\x82\x82\xac"',
    b'"\xe2\x82"',
    b'"\xe2(\xa1"',
    b'"\xfd\xbf\xbf\xbf\xbf\xbf"',
    b'"\xc0\x80\xc0\x80"',
    b"'\xc0\x80\x80\x01",
    b"'\xe2\x82\x01",
    b"'\xf0\x9f\x98\x01",
    b"'\xf8\x88\x80\x80\x01",
    b"'\xfc\x84\x80\x80\x80\x80\x80\x01",
    b"'\xef\xbf\xbf\xef\xb7\xaf\xf0\x9f\xbf\xbe\xed\xa0\x80\x01",
    b"@[1]",
    b"@ '[1]'",
    b"@'a\tb' {}",
    b"@\x00@",
    b"{'a': @, 'b': 1}",
    b"{'a': [1, @ 2], 'b': {}}",
    b"# comment\n{}",
    b"// {comment}\n{}",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"info status\n",
    b"<xml a='b'/>",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"%p %d %s",
    b"{'a': %d}",
    b"a" * 1005 + b" " + b"a" * 1006 + b" " + b"a" * 1007,
    b"{'a':" * 1024 + b"1" + b"}" * 1024,
    b"[" * 1024 + b"]" * 1024,
    b"[" * 1025 + b"]" * 1025,
    b"{'a':[" * 512 + b"1" + b"]}" * 512,
    b"{'a':[" * 513 + b"1" + b"]}" * 513,
    b"{{" * 600,
    b"'" + b"x" * 5_000 + b"'",
    b"'" + b"x" * 5_000 + b"\n",
]


@pytest.mark.parametrize("data", ODD)
def test_qemu_complains_in_the_same_words(monitor: Monitor, data: bytes) -> None:
    for complete in (data, data + b" ", data + b"\r\n{}"):
        assert our_complaints(complete) == monitor.complaints(complete)


@settings(max_examples=300, deadline=None)
@given(STREAMS)
def test_qemu_complains_in_the_same_words_about_anything(monitor: Monitor, data: bytes) -> None:
    assert our_complaints(data) == monitor.complaints(data)


@pytest.mark.parametrize(("value", "text"), SPELLINGS)
def test_qemu_spells_strings_and_integers_as_we_do(monitor: Monitor, value: Value, text: bytes) -> None:
    reply, _ = monitor.ask(b'{"execute": "nothing", "id": %b}' % encode(value))
    if isinstance(value, str | int | None):
        assert b'"id": %b, ' % text in reply
    assert b'"class": "CommandNotFound"' in reply
