"""Who may come in: the token, the host's name, the page that asks; and what every answer tells a browser."""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from qmpguard.admin.connections import Connection, Connections
from qmpguard.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from typing import TypeAlias

    from qmpguard.admin.faults import Faults

    _Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: characters of a token, at least: 16 random bytes in hexadecimal have 32
MIN_TOKEN = 16
#: bytes of the token's file that are read
MAX_TOKEN = 4096

#: what needs no token: none of it names a VM
PUBLIC = frozenset({"/", "/page.css", "/page.js", "/icon.svg", "/healthz", "/readyz", "/openapi.json"})

#: the page needs its own files and connections to where it came from, nothing else
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
    "Server": "qmpguard",
}

#: a name or a number, and a port (RFC 9110, section 7.2)
_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?", re.ASCII)

KNOWN: web.RequestKey[bool] = web.RequestKey("known", bool)
CONNECTION: web.RequestKey[Connection] = web.RequestKey("connection", Connection)


class Auth:
    """Lets requests in. Over a unix socket its file's mode has decided already; over TCP a token decides.

    ``hosts`` are names by which a browser may call us, beside `localhost` and any address in numbers: a foreign page
    can make its own name point here, but not a number.
    """

    def __init__(self, token: str | None = None, hosts: Iterable[str] = ()) -> None:
        self._token = None if token is None else token.encode()
        self._hosts = frozenset(hosts) | {"localhost"}

    def check(self, request: web.Request) -> None:
        """Note on the request whether we know who asks; raises `web.HTTPException` for whom we do not let in."""
        self._check_host(request)
        request[KNOWN] = _is_unix(request) or self._has_token(request)
        if not request[KNOWN] and request.path not in PUBLIC:
            raise web.HTTPUnauthorized(text="a bearer token is needed", headers={"WWW-Authenticate": "Bearer"})

    def _check_host(self, request: web.Request) -> None:
        if not self._is_ours(request.headers.get("Host", "")):
            raise web.HTTPForbidden(text="the Host header names another host")
        origin = request.headers.get("Origin")
        if origin is not None and _network_location(origin) != request.headers["Host"]:
            raise web.HTTPForbidden(text="another origin's page may not ask")

    def _is_ours(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        name = (match[1] or match[2]).lower() if match else ""
        return name in self._hosts or _is_number(name)

    def _has_token(self, request: web.Request) -> bool:
        given = request.headers.get("Authorization")
        if given is None:
            return False
        scheme, _, token = given.partition(" ")
        right = self._token is not None and hmac.compare_digest(
            token.strip().encode(errors="surrogateescape"), self._token
        )
        if scheme.lower() != "bearer" or not right:
            raise web.HTTPUnauthorized(text="this token is not right", headers={"WWW-Authenticate": "Bearer"})
        return True


def read_token(path: str) -> str:
    """Return the token in a file; raises `ConfigError` when there is none, or one that could be guessed."""
    try:
        with Path(path).open("rb") as file:
            token = file.read(MAX_TOKEN).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"token file {path}: {getattr(error, 'strerror', None) or 'not plain ASCII'}") from error
    if len(token) < MIN_TOKEN or not token.isprintable() or " " in token:
        raise ConfigError(f"token file {path}: a token is one word of at least {MIN_TOKEN} characters")
    return token


def middleware(door: Auth, connections: Connections, faults: Faults) -> Callable[..., Awaitable[web.StreamResponse]]:
    """Return what every request passes first; it also gives each error its JSON, and keeps every exception."""

    @web.middleware
    async def enter(request: web.Request, handler: _Handler) -> web.StreamResponse:
        with connections.answering(request) as connection:
            if connection is None:
                return web.Response()  # to nobody
            request[CONNECTION] = connection
            try:
                response = await _answer(door, request, handler)
                await response.prepare(request)
                await response.write_eof()  # so that the answer's time is the client's reading, too
            except ConnectionError:  # the client has left: aiohttp notices it as well
                return web.Response()
            except Exception as error:  # noqa: BLE001 -- one request's fault
                faults.fault(request.match_info.handler.__name__, error)
                if request.writer.output_size:  # half an answer must not look like a whole one
                    connection.close()
                return web.json_response({"error": "a fault of the guard's own: see its log"}, status=500)
            return response

    return enter


async def _answer(door: Auth, request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        door.check(request)
        return await handler(request)
    except web.HTTPException as error:
        kept = {name: error.headers[name] for name in ("Allow", "WWW-Authenticate") if name in error.headers}
        return web.json_response({"error": error.text or error.reason}, status=error.status, headers=kept)


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Tell the browser, with every answer, what it must not do."""
    response.headers.update(HEADERS)


def _network_location(origin: str) -> str | None:
    """Return an origin's host and port; None for what is no URL at all."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _is_unix(request: web.Request) -> bool:
    sock = request.transport.get_extra_info("socket") if request.transport else None
    return sock is not None and sock.family == socket.AF_UNIX


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
