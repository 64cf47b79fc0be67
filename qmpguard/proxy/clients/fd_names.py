"""Passing descriptors on: which requests take one, and by whose names QEMU keeps them.

To QEMU all clients are one. It keeps one set of names, and hands a descriptor that no request has taken to the next
request that asks for one, whoever sent it. Here each client has only what is its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.wire.client_messages import error_reply

if TYPE_CHECKING:
    from qmpguard.proxy.clients.pending import PendingRequest, Requester
    from qmpguard.wire.client_messages import Request
    from qmpguard.wire.json import Value

#: the commands that take a descriptor from the socket (QEMU monitor/fds.c)
TAKES_DESCRIPTOR = frozenset({"getfd", "add-fd"})

#: QEMU monitor/fds.c: qmp_getfd(), qmp_add_fd()
NONE_SUPPLIED = "No file descriptor supplied via SCM_RIGHTS"
_INT64 = range(-(1 << 63), 1 << 63)


def takes_descriptor(request: Request) -> bool:
    """Say whether QEMU takes a descriptor for a request.

    With arguments that it cannot read it does not, and leaves the descriptor to the next request that wants one.
    """
    arguments = request.arguments or {}
    if request.oob:
        return False
    if request.command == "getfd":
        return arguments.keys() == {"fdname"} and isinstance(arguments["fdname"], str)
    if request.command == "add-fd":
        number, opaque = arguments.get("fdset-id", 0), arguments.get("opaque", "")
        fits = type(number) is int and number in _INT64 and isinstance(opaque, str)
        return fits and arguments.keys() <= {"fdset-id", "opaque"}
    return False


class FdNames:
    """The names of descriptors that the sessions of one link hold, each by the request that gave it.

    A hold ends when its session closes or QEMU has accepted a request of the session that mentions the name.
    """

    def __init__(self) -> None:
        self.attentive = False  # there is something for `on_reply` to look at
        self._givers: dict[str, PendingRequest] = {}
        self._names: dict[Requester, set[str]] = {}  # those of `_givers`, by who holds them
        self._under_way: set[PendingRequest] = set()  # requests with a descriptor
        self._stray = False  # QEMU may have a descriptor that no request has taken

    def refusal(self, pending: PendingRequest) -> bytes | None:
        """Return the answer to a request for a descriptor that must not reach QEMU; None where it may."""
        request = pending.request
        if not takes_descriptor(request):
            return None
        if pending.descriptor is None:
            return error_reply(NONE_SUPPLIED, pending.id) if self._stray else None
        name = (request.arguments or {}).get("fdname")
        if isinstance(name, str):
            giver = self._givers.setdefault(name, pending)
            if giver.session is not pending.session:
                text = f"the file descriptor name '{name}' is in use by another client"
                return error_reply(f"{text} (qmpguard: QEMU has one set of names for all; choose another)", pending.id)
            self._names.setdefault(pending.session, set()).add(name)
        self._under_way.add(pending)
        self.attentive = True
        return None

    def on_reply(self, pending: PendingRequest, reply: bytes) -> None:
        """Called with QEMU's reply to a request: a name may be held from now on, or no longer."""
        accepted = _is_success(reply)
        names = self._names.get(pending.session, set())
        if pending in self._under_way:
            self._under_way.discard(pending)
            self._stray = not accepted
            if not accepted:
                self._drop(pending.session, {name for name in names if self._givers[name] is pending})
        elif accepted and names:
            arguments = pending.request.arguments
            self._drop(pending.session, {name for name in names if _mentions(arguments, name)})
        self._rest()

    def on_session_closed(self, session: Requester, unsent: list[PendingRequest]) -> None:
        """End what a session holds. QEMU keeps the descriptors: their names outlive connections there."""
        self._drop(session, set(self._names.get(session, ())))
        self._under_way.difference_update(unsent)  # there will be no reply
        self._rest()

    def _drop(self, session: Requester, names: set[str]) -> None:
        for name in names:
            del self._givers[name]
        left = self._names.get(session, set()) - names
        if left:
            self._names[session] = left
        else:
            self._names.pop(session, None)

    def _rest(self) -> None:
        self.attentive = bool(self._givers or self._under_way)


def _is_success(reply: bytes) -> bool:
    """Say whether a reply is a success: QEMU writes what it returns first, and an error behind its id."""
    return reply.lstrip(b"{ \r\n").startswith(b'"return"')


def _mentions(value: Value, name: str) -> bool:
    """Say whether a name stands in one of the texts of a value."""
    left = [value]
    while left:
        match left.pop():
            case str(text) if name in text:
                return True
            case dict(members):
                left += members.values()
            case list(items):
                left += items
            case _:
                pass
    return False
