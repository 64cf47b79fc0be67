"""What QEMU sends: cut into messages however it arrives, and given to the client's id."""

from __future__ import annotations

import tracemalloc

import pytest

from qmpguard.wire import qemu_messages as replies
from qmpguard.wire.qemu_messages import Greeting, OddReply, QemuEvent, Reply, Splitter, find_id, read_reply, with_id

VERSION = b'{"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}'
GREETING = b'{"QMP": {"version": %b, "capabilities": ["oob"]}}\r\n' % VERSION
LINES = [GREETING, b'{"return": {}, "id": 1}\r\n', b'{"timestamp": {}, "event": "STOP"}\r\n', b"junk\r\n", b"\n"]
PRETTY = [b'{\r\n    "return": {\r\n    },\r\n    "id": 1\r\n}\r\n', b'{\r\n    "event": "STOP"\r\n}\r\n']


@pytest.mark.parametrize("messages", [LINES, PRETTY, [*PRETTY, *LINES]])
@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_messages_are_cut_apart_however_they_arrive(messages: list[bytes], step: int) -> None:
    splitter, data, found = Splitter(), b"".join(messages), []
    for i in range(0, len(data), step):
        found += splitter.feed(data[i : i + step])
    assert found == messages
    assert splitter.held == 0


def test_a_bare_carriage_return_ends_no_line() -> None:
    splitter = Splitter()
    assert splitter.feed(b'{"a": 1}\r {"b": 2}\r\n{"c"') == [b'{"a": 1}\r {"b": 2}\r\n']
    assert splitter.feed(b": 3}\r\n") == [b'{"c": 3}\r\n']


def test_many_short_lines_of_one_message_take_no_more_memory_than_their_bytes() -> None:
    splitter = Splitter()
    splitter.feed(b"{\n")
    tracemalloc.start()
    for _ in range(100):
        splitter.feed(b"a\n" * 1000 + b"a")  # the last line is incomplete
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert splitter.held == 2 + 100 * 2001
    assert kept < 2 * splitter.held


def test_a_long_message_is_copied_once() -> None:
    splitter, size = Splitter(), 4 << 20
    message = b'{"return": "%b", "id": 1}\r\n' % (b"x" * size)
    pieces = [message[i : i + 65536] for i in range(0, len(message), 65536)]
    tracemalloc.start()
    found = [each for piece in pieces for each in splitter.feed(piece)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [message]
    assert peak < 3 * size, "what was gathered, and the message"


def test_a_message_that_comes_whole_is_handed_on_as_it_is() -> None:
    assert Splitter().feed(LINES[1])[0] is LINES[1]


def test_a_message_without_end_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "MAX_REPLY", 1000)
    splitter = Splitter()
    for _ in range(10):
        splitter.feed(b"x" * 100)
    with pytest.raises(OverflowError):
        splitter.feed(b"x")


@pytest.mark.parametrize(
    ("reply", "bare", "with_other"),
    [
        (b'{"return": {}, "id": 12}\r\n', b'{"return": {}}\r\n', b'{"return": {}, "id": "x"}\r\n'),
        (b'{"return": {}, "id": 12}\n', b'{"return": {}}\n', b'{"return": {}, "id": "x"}\n'),
        (b'{"return": 1,  "id": 12 }\r\n', b'{"return": 1 }\r\n', b'{"return": 1,  "id": "x" }\r\n'),
        (b'{"id": 12, "error": {}}\r\n', b'{"error": {}}\r\n', b'{"id": "x", "error": {}}\r\n'),
        (
            b'{\r\n    "return": {\r\n    },\r\n    "id": 12\r\n}\r\n',
            b'{\r\n    "return": {\r\n    }\r\n}\r\n',
            b'{\r\n    "return": {\r\n    },\r\n    "id": "x"\r\n}\r\n',
        ),
        (
            b'{\r\n    "id": 12,\r\n    "error": 1\r\n}\r\n',
            b'{"error": 1\r\n}\r\n',
            b'{\r\n    "id": "x",\r\n    "error": 1\r\n}\r\n',
        ),
    ],
)
def test_a_reply_gets_the_clients_own_id_or_none(reply: bytes, bare: bytes, with_other: bytes) -> None:
    place = find_id(reply)
    assert place is not None
    assert reply[slice(*place)] == b"12"
    assert with_id(reply, place, None) == bare
    assert with_id(reply, place, b'"x"') == with_other


@pytest.mark.parametrize(
    "message",
    [
        b'{"event": "STOP"}\r\n',
        b'{"return": {"id": 1}, "id": 1, "x": "\\", \\"id\\": 3}"}\r\n',
        b"{}\r\n",
        b'{"a": 12}\r\n',
        b'"event": 12}\r\n',
        b'{"return": {"a": 1, "id": 12}}\r\n',
        b'{"return": 1, "id": "12"}\r\n',
        b'{"return": 1, "id": -12}\r\n',
        b'{"return": 1, "id": }\r\n',
    ],
)
def test_an_id_is_not_found_where_it_only_looks_like_one(message: bytes) -> None:
    assert find_id(message) is None


def test_an_odd_reply_is_parsed() -> None:
    odd = OddReply(b'{"return": [1], "id": 5, "x": 1}')
    assert (odd.event, odd.number) == (None, 5)
    assert odd.with_id(None) == b'{"return": [1], "x": 1}\r\n'
    assert odd.with_id(b"null") == b'{"return": [1], "x": 1, "id": null}\r\n'
    line = b'{"event": "STOP", "data": [1]}'
    assert OddReply(line).event == QemuEvent(line, "STOP", {})
    assert OddReply(b'{"id": true}').number is None


@pytest.mark.parametrize("number", [b"1.5", b"-0.0", b"1e999", b"NaN", b"-Infinity"])
@pytest.mark.parametrize("other", [b'"\\u00e9"', b'"\x7f"', b"[" * 900 + b"]" * 900])
def test_an_odd_reply_keeps_its_numbers(number: bytes, other: bytes) -> None:
    reply = OddReply(b'{"id": 5 , "return": %b, "x": %b, "y": 0}' % (number, other)).with_id(b"7")
    assert reply.startswith(b'{"return": %b, "x": ' % number)
    assert reply.endswith(b', "y": 0, "id": 7}\r\n')


def test_an_endless_event_or_odd_reply_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "MAX_ODD", 1000)
    OddReply(b'{"event": "STOP"}'.ljust(1000))
    with pytest.raises(ValueError, match="1000 bytes"):
        OddReply(b'{"event": "STOP"}'.ljust(1001))


@pytest.mark.parametrize("unit", [b"0,", b"[],", b'{"a":0},'])
def test_an_event_of_very_many_values_is_not_parsed(unit: bytes) -> None:
    often = replies.MAX_VALUES // sum(map(unit.count, b",[{"))
    few, many = (b'{"event": "STOP", "data": {"a": [%b0]}}' % (unit * count) for count in (often - 9, often))
    assert len(many) < replies.MAX_ODD
    assert not replies.has_too_many_values(few)
    assert OddReply(few).event is not None
    with pytest.raises(ValueError, match=f"{replies.MAX_VALUES} values"):
        OddReply(many)
    assert not replies.has_too_many_values(b'"%b"' % (b"x" * replies.MAX_ODD))


@pytest.mark.parametrize("message", [b"[]", b"junk", b"[" * 100_000 + b"]" * 100_000])
def test_what_is_no_object_is_said_to_be_none(message: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        OddReply(message)


def test_a_greeting_tells_version_and_offer() -> None:
    greeting = Greeting(GREETING)
    assert (greeting.version, greeting.package) == ("7.2.22", "Debian")
    assert greeting.offered == {"oob"}
    assert greeting.line == GREETING


@pytest.mark.parametrize(("version", "skips"), [((7, 2), False), ((11, 0), False), ((11, 1), True), ((12, 0), True)])
def test_a_greeting_tells_how_that_qemu_reads_on_after_a_limit(version: tuple[int, int], skips: bool) -> None:
    qemu = b'{"major": %d, "minor": %d, "micro": 0}' % version
    assert Greeting(b'{"QMP": {"version": {"qemu": %b}, "capabilities": []}}' % qemu).skips is skips


@pytest.mark.parametrize("line", [b"{}", b"[]", b"junk", b'{"QMP": {"version": 1}}', b'{"QMP": 5}', b"[" * 100_000])
def test_anything_else_is_no_greeting(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Greeting(line)


NUMBERS = '{"major": 8, "minor": 1, "micro": 0}'


@pytest.mark.parametrize(
    "inside",
    [
        *(f'"version": {{"qemu": {NUMBERS.replace("8", odd)}}}, "capabilities": []' for odd in
          ('"x"', "1e400", "NaN", "8.5", "true", "-1", "10000", "8" * 5000, "null", "[]", "{}")),
        f'"version": {{"qemu": {NUMBERS}, "package": 5}}, "capabilities": []',
        f'"version": {{"qemu": {NUMBERS}}}, "capabilities": [1]',
        f'"version": {{"qemu": {NUMBERS}}}, "capabilities": 1',
        f'"version": {{"qemu": {NUMBERS}}}, "capabilities": [[]]',
        f'"version": {{"qemu": {NUMBERS}}}',
    ],
    ids=lambda text: text[:50],
)  # fmt: skip
def test_an_odd_greeting_is_none_and_raises_nothing_else(inside: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Greeting(b'{"QMP": {' + inside.encode() + b"}}")


def test_what_a_packager_calls_it_is_cut_and_has_no_control_characters() -> None:
    package = r'"a\u001b[31m' + "x" * 1000 + '"'
    line = f'{{"QMP": {{"version": {{"qemu": {NUMBERS}, "package": {package}}}, "capabilities": []}}}}'
    assert Greeting(line.encode()).package == ("a[31m" + "x" * 1000)[:256]


@pytest.mark.parametrize(
    ("message", "read"),
    [
        (b'{"return": {}, "id": 1}', Reply(accepted=True)),
        (b'{"return": "a text", "id": 1}', Reply(accepted=True, text="a text")),
        (b'{"id": 1, "error": {"class": "GenericError", "desc": "no"}}', Reply(accepted=False, text="no")),
        (b'{"id": 1, "error": {}}', Reply(accepted=False)),
        (b'{"id": 1}', Reply(accepted=False)),
        (b"[]", None),
        (b"nonsense", None),
        (b'{"return": ' + b"1" * 5000 + b"}", None),
        (b'{"return": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
        (b'{"return": "\xff"}', None),
    ],
    ids=range(10),
)
def test_a_reply_is_read_or_it_is_none(message: bytes, read: Reply | None) -> None:
    assert read_reply(message) == read


def test_a_reply_that_is_too_long_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "MAX_READ", 100)
    message = b'{"return": "", "id": 1}\r\n'
    assert read_reply(message.rjust(100)) == Reply(accepted=True)
    assert read_reply(message.rjust(101)) is None


def test_an_event_has_a_name() -> None:
    with pytest.raises(ValueError, match="without a name"):
        OddReply(b'{"event": {}}')
