"""A refusal in the form in which QEMU would refuse, and what QEMU's own reply says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.wire.client_messages import error_reply, success_reply

if TYPE_CHECKING:
    from qmpguard.proxy.clients.pending import PendingRequest
    from qmpguard.record import Decision
    from qmpguard.wire.qemu_messages import Reply


def refusal_reply(pending: PendingRequest, decision: Decision) -> bytes | None:
    """Return a refusal in the form of the command; None where nothing was refused.

    A line of HMP fails as text in a successful reply, as in QEMU, unless QEMU would not come to look at the line.
    """
    request, finding = pending.request, decision.verdict.refusal
    if finding is None:
        return None
    if request.command == "human-monitor-command" and not finding.problem.as_qemu:
        line = (request.arguments or {}).get("command-line")
        if isinstance(line, str):  # else QEMU would answer with an error of QMP
            return success_reply(f"Error: {decision.text}\r\n", pending.id)
    return error_reply(decision.text, pending.id, kind=finding.problem.error_class)


def was_accepted(reply: Reply) -> bool:
    """Say whether QEMU's reply is a success, and for HMP that no line of its text is an error.

    HMP prints warnings before the error (util/error-report.c).
    """
    return reply.accepted and not any(line.startswith("Error") for line in reply.text.splitlines())
