"""The target of a migration, from the arguments of `migrate`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpguard.wire.json import Value

#: channels that are read; QEMU takes two at most
MAX_CHANNELS = 8
#: a URI of QEMU that names a host (qapi/migration.json: MigrationAddress)
_HOST = re.compile(r"(?:tcp|rdma):(\[[^]]*\]|[^:]*)")
#: names and addresses of this host; an empty name means any of its addresses
_LOCAL = re.compile(r"(?:localhost|127\..*|::1|0\.0\.0\.0|::|)\Z")


def leaves_the_host(arguments: Mapping[str, Value]) -> bool:
    """Say whether the target is certainly another host."""
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
