"""Authentication: the bearer token, the Host and Origin headers; and the security headers of every response."""

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
#: bytes that are read of the token's file
MAX_TOKEN = 4096

#: the paths that need no token; none of their responses names a VM
PUBLIC = frozenset({"/", "/page.css", "/page.js", "/icon.svg", "/healthz", "/readyz", "/openapi.json"})

#: the page needs only its own files and connections to its own origin
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

#: a host name or an IP address, and a port (RFC 9110, section 7.2)
_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?", re.ASCII)

IS_KNOWN: web.RequestKey[bool] = web.RequestKey("known", bool)
CONNECTION: web.RequestKey[Connection] = web.RequestKey("connection", Connection)


class Auth:
    """Checks requests. Over TCP a token is needed. Over a unix socket the mode of its file has decided already.

    ``hosts`` are host names that are accepted in the Host header, beside `localhost` and any IP address. A foreign web
    page can resolve its own host name to this address (DNS rebinding), but not an IP address.
    """

    def __init__(self, token: str | None = None, hosts: Iterable[str] = ()) -> None:
        self._token = None if token is None else token.encode()
        self._hosts = frozenset(hosts) | {"localhost"}

    def check(self, request: web.Request) -> None:
        """Set ``IS_KNOWN`` on a request. Raises `web.HTTPException` for a request that is not allowed."""
        self._check_host(request)
        request[IS_KNOWN] = _is_unix(request) or self._has_token(request)
        if not request[IS_KNOWN] and request.path not in PUBLIC:
            raise web.HTTPUnauthorized(text="a bearer token is needed", headers={"WWW-Authenticate": "Bearer"})

    def _check_host(self, request: web.Request) -> None:
        if not self._is_own_name(request.headers.get("Host", "")):
            raise web.HTTPForbidden(text="the Host header names another host")
        origin = request.headers.get("Origin")
        if origin is not None and _network_location(origin) != request.headers["Host"]:
            raise web.HTTPForbidden(text="the Origin header names another origin")

    def _is_own_name(self, host: str) -> bool:
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
    """Return the token in a file. Raises `ConfigError` where it cannot be read, or is too short."""
    try:
        with Path(path).open("rb") as file:
            token = file.read(MAX_TOKEN).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"token file {path}: {getattr(error, 'strerror', None) or 'not plain ASCII'}") from error
    if len(token) < MIN_TOKEN or not token.isprintable() or " " in token:
        raise ConfigError(f"token file {path}: a token is one word of at least {MIN_TOKEN} characters")
    return token


def middleware(auth: Auth, connections: Connections, faults: Faults) -> Callable[..., Awaitable[web.StreamResponse]]:
    """Return the middleware: it checks each request, answers errors in JSON, and contains every exception."""

    @web.middleware
    async def authenticate(request: web.Request, handler: _Handler) -> web.StreamResponse:
        with connections.answering(request) as connection:
            if connection is None:
                return web.Response()  # the connection is closed
            request[CONNECTION] = connection
            try:
                response = await _handle(auth, request, handler)
                await response.prepare(request)
                await response.write_eof()  # so that the timeout covers the client's reading too
            except ConnectionError:  # the client has closed the connection; aiohttp notices it as well
                return web.Response()
            except Exception as error:  # noqa: BLE001 -- a fault of one request must not affect others
                faults.fault(request.match_info.handler.__name__, error)
                if request.writer.output_size:  # a partial response must not look complete
                    connection.close()
                return web.json_response({"error": "internal error: see the guard's log"}, status=500)
            return response

    return authenticate


async def _handle(auth: Auth, request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        auth.check(request)
        return await handler(request)
    except web.HTTPException as error:
        headers = {name: error.headers[name] for name in ("Allow", "WWW-Authenticate") if name in error.headers}
        return web.json_response({"error": error.text or error.reason}, status=error.status, headers=headers)


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Add the security headers to a response."""
    response.headers.update(HEADERS)


def _network_location(origin: str) -> str | None:
    """Return an origin's host and port; None for an invalid URL."""
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
