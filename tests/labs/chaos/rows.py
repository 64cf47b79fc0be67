"""Every fault of the surroundings, what is promised for it, and the function that makes it and says what was seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tests.labs.chaos import crowds, files, links, processes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.labs.chaos.place import Place


class Row(NamedTuple):
    """One fault. ``make`` raises `Broken` where the promise is not kept; its docstring says what the fault is.

    ``long``: it takes more seconds than a test may.
    """

    name: str
    promise: str
    make: Callable[[Place], Awaitable[str]]
    long: bool = False

    @property
    def fault(self) -> str:
        """Return the fault in words."""
        return (self.make.__doc__ or "").strip().rstrip(".")


_LIVES = "clients are served, and SIGTERM ends the guard"
_APART = "only its own VM notices"
_OLD = "the old settings hold, and the log says why"
_NOBODY = "nobody waits for it"
_OWN = "the reply comes, or the connection ends"

ROWS = (
    Row("stderr full", _LIVES, files.stderr_full),
    Row("stderr broken", _LIVES, files.stderr_broken),
    Row("stderr no room", _LIVES, files.stderr_no_room),
    Row("stderr closed", _LIVES, files.stderr_closed),
    Row("config deep", _OLD, files.config_deep),
    Row("config digits", _OLD, files.config_digits),
    Row("config host", _OLD, files.config_host),
    Row("config descriptor", _OLD, files.config_descriptor),
    Row("config hangs", _LIVES, files.config_hangs),
    Row("traffic hangs", _NOBODY, files.traffic_hangs_at_reload),
    Row("audit hangs", _NOBODY, files.audit_hangs_at_reload),
    Row("audit full", "requests are judged, and the log says that lines are lost", files.audit_full),
    Row("traffic memory", "what waits to be written has a size", files.traffic_memory, long=True),
    Row("half a reload", "all or none", files.half_a_reload),
    Row("error beyond ASCII", _APART, links.error_beyond_ascii),
    Row("reply no JSON", _APART, links.reply_no_json),
    Row("greeting endless", _APART, links.greeting_endless),
    Row("greeting version", _APART, links.greeting_version),
    Row("schema nested", _APART, links.schema_nested),
    Row("event odd name", _OWN, links.event_odd_name),
    Row("event odd data", _OWN, links.event_odd_data),
    Row("reply long id", _OWN, links.reply_long_id),
    Row("accepts and closes", "attempts and log lines become fewer", links.accepts_and_closes),
    Row("no descriptor for the link", "links have descriptors of their own", links.no_descriptor_for_link),
    Row("reset", "its clients are closed", links.reset),
    Row("passed QEMU ends", _APART, links.passed_qemu_ends),
    Row("two reloads", "every VM of the last file is served, no ghost holds a QEMU", crowds.two_reloads),
    Row("dead clients", "who has left keeps no place", crowds.dead_clients),
    Row("junk", "no client of another VM waits for it", crowds.junk),
    Row("descriptors", "other VMs are served, and all are closed", crowds.descriptors),
    Row("admin silent", "probes are answered", crowds.admin_silent),
    Row("admin malformed", "no trace, no storm of log lines, no 500", crowds.admin_malformed),
    Row("socket removed", "the guard listens anew", crowds.socket_removed),
    Row("admin socket removed", "the guard listens anew", crowds.admin_socket_removed),
    Row("signals", _LIVES, processes.signals),
    Row("ended early", "it ends, and leaves nothing", processes.ended_early),
    Row("stopped while QEMU ends", "QEMU's last words arrive", processes.stopped_while_qemu_ends),
    Row("memory short", "a request is whole or never sent, and the guard lives", processes.memory_short, long=True),
    Row("file size", _LIVES, processes.file_size),
    Row("takeover killed", "QEMU's socket comes back as it was", processes.takeover_killed, long=True),
    Row("exec ended early", "QEMU does not run on", processes.exec_ended_early),
    Row("descriptors short", "who is there is served", processes.descriptors_short),
    Row("killed while judging", "nothing is sent that was not judged", processes.killed_between_requests),
)
