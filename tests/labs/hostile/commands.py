"""Requests of every fate: judged, accepted, refused, out-of-band, HMP, unknown, malformed; and junk of every kind."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING

from qmpguard.policy.readers import READERS
from tests.support.process import FORGED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: a line that stands in the log if it is written raw
FORGERY = f"x\n{FORGED} INFO vm=b override=begun rule=all by=pid1/uid0\x1b[2J\x1b]0;x\x07\u2028\u202e"
#: values where a command expects others
ODD = (
    *(b"null", b"true", b'""', b"[]", b"{}", b"-0", b"1e400", b"9" * 5000, b"[" * 900 + b"]" * 900),
    *(b'"' + b"z" * 70_000 + b'"', json.dumps(FORGERY).encode()),
)


def execute(command: str, arguments: bytes | None = None, *, key: str = "execute") -> bytes:
    """Return a request without its id and its last brace."""
    text = b'{"%b": %b' % (key.encode(), json.dumps(command).encode())
    return text if arguments is None else text + b', "arguments": ' + arguments


def quoted(value: object) -> bytes:
    return json.dumps(value).encode()


def capability(name: str, *, state: bool) -> bytes:
    return quoted({"capabilities": [{"capability": name, "state": state}]})


def hmp(line: str) -> bytes:
    return execute("human-monitor-command", quoted({"command-line": line}))


#: lines of HMP, good and bad
LINES = (
    *("info status", "info", "", " ", "\t", "nonsense", "help", "print 1/0", "info migrate", "migrate_set_capability"),
    *(
        "migrate_set_capability postcopy-ram on",
        "migrate_set_capability\tpostcopy-ram\ton",
        "migrate_set_capability x y z",
    ),
    *(
        'migrate "',
        "migrate -d -x tcp:",
        "device_add",
        "device_add vfio-pci,host=",
        "device_add e1000e,id=\x01",
        "gdbserver",
    ),
    *(
        "qom-set / x 1",
        "object_add monitor-qmp,id=m",
        "x" * 20_000,
        "info\0status",
        FORGERY,
        "migrate_set_parameter a b",
    ),
    *("set_password vnc s3cret", "stop\nquit_not"),
)


def odd_arguments(random: Random) -> bytes:
    """Return a command that is judged, with arguments that are none of its own."""
    command = random.choice(tuple(READERS))
    if random.random() < 0.3:
        return execute(command, random.choice(ODD))
    known = sorted(READERS[command].known or ("driver", "id", "qom-type")) or ["x"]
    return execute(command, b'{"%b": %b}' % (random.choice(known).encode(), random.choice(ODD)))


#: requests that are answered in the order in which they were sent; each lacks its id and its last brace
IN_BAND: Mapping[str, Callable[[Random], bytes]] = {
    "query": lambda r: execute(r.choice(("query-status", "query-name", "query-migrate", "query-version"))),
    "query with an odd argument": lambda r: execute("query-name", b'{"x": %b}' % r.choice(ODD)),
    "schema": lambda r: execute("query-qmp-schema"),
    "unknown": lambda r: execute("nonsense"),
    "forged": lambda r: execute(FORGERY),
    "long name": lambda r: execute("n" * 100_000),
    "accepted": lambda r: execute("migrate-set-capabilities", capability("xbzrle", state=False)),
    "migrate": lambda r: execute("migrate", quoted({"uri": "exec:cat >/dev/null"})),
    "cancelled": lambda r: execute("migrate_cancel"),
    "refused": lambda r: execute("migrate-set-capabilities", capability("postcopy-ram", state=True)),
    "refused with odd words": lambda r: execute(
        "device_add", quoted({"driver": "vfio-pci", "host": FORGERY, "id": FORGERY})
    ),
    "monitor": lambda r: execute("object-add", quoted({"qom-type": "monitor-qmp", "id": "m", "chardev": "c"})),
    "odd arguments": odd_arguments,
    "hmp": lambda r: hmp(r.choice(LINES)),
    "no string": lambda r: b'{"execute": ' + r.choice(ODD),
    "one member too many": lambda r: execute("query-status") + b', "more": ' + r.choice(ODD),
    "two commands": lambda r: execute("query-status") + b', "exec-oob": "query-yank"',
    "no command": lambda r: b'{"arguments": {}',
    "descriptor that is not there": lambda r: execute("getfd", quoted({"fdname": f"n{r.randrange(3)}"})),
    "negotiates again": lambda r: execute("qmp_capabilities"),
}

#: of these, what is answered as junk is
LIKE_JUNK = frozenset({"no command"})

#: requests that are answered when they are executed; for a client that has asked for it
OUT_OF_BAND: Mapping[str, Callable[[Random], bytes]] = {
    "yank": lambda r: execute("query-yank", key="exec-oob"),
    "judged": lambda r: execute("migrate-start-postcopy", b'{"x": 1}', key="exec-oob"),
    "cannot be": lambda r: execute("query-status", key="exec-oob"),
    "recover": lambda r: execute("migrate-recover", quoted({"uri": "tcp:"}), key="exec-oob"),
    "odd": lambda r: execute(r.choice(("yank", "migrate-pause")), r.choice(ODD), key="exec-oob"),
}

#: what is no request, and each time answered by errors without an id; a 0xFF behind it begins anew
JUNK = (
    *(
        b"{}",
        b"x ",
        b"[]",
        b"1 ",
        b'""',
        b"null ",
        b"\0",
        b"\x01",
        b"\x7f",
        b"\xff",
        b"\xc3",
        b"]",
        b"}",
        b"[},",
        b"[],",
    ),
    *(
        b"'",
        b'"\\ud800"',
        b'{"execute"',
        b'{"execute": "query-st',
        b"[" * 2000,
        b'{"a": 1, "a": 2}',
        b"-",
        b"nan ",
        b"1e ",
    ),
    *(
        b"9" * 5000 + b" ",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01",
        b"{" * 1100,
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
    ),
)
#: what begins anew, whatever came before (docs/interop/qmp-spec: a lexical error)
ANEW = b"\xff"
