"""Where a migration goes, as the arguments of `migrate` say it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpguard.wire.json import Value

#: channels that are looked through; QEMU takes two at most
MAX_CHANNELS = 8
#: a URI of QEMU that names a host (qapi/migration.json: MigrationAddress)
_HOST = re.compile(r"(?:tcp|rdma):(\[[^]]*\]|[^:]*)")
#: hosts that are this one; QEMU takes an empty name for any address of its own
_LOCAL = re.compile(r"(?:localhost|127\..*|::1|0\.0\.0\.0|::|)\Z")


def leaves_the_host(arguments: Mapping[str, Value]) -> bool:
    """Say whether a migration goes to a host that is surely another one."""
    uri, channels = arguments.get("uri"), arguments.get("channels")
    if isinstance(uri, str) and (match := _HOST.match(uri)) is not None:
        return not _LOCAL.match(match[1].strip("[]"))
    return isinstance(channels, list) and any(map(_is_remote, channels[:MAX_CHANNELS]))


def _is_remote(channel: Value) -> bool:
    match channel:
        case {"addr": {"transport": "socket" | "rdma", "host": str(host)}}:
            return not _LOCAL.match(host)
        case _:
            return False
