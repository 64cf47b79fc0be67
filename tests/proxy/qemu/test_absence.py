"""Why there is no link: every error has a cause and words, attempts are spaced out, and the log stays short."""

from __future__ import annotations

import errno

import pytest

from qmpguard.errors import UnavailableError
from qmpguard.proxy.qemu.absence import (
    FIRST_DELAY,
    GONE,
    INTERVAL,
    LONGEST_DELAY,
    LONGEST_UNFIT,
    SHOWN,
    STEADY,
    Absence,
    AbsentError,
    BackOff,
    Cause,
    Notices,
    absence,
    foreign,
)


@pytest.mark.parametrize(
    ("error", "cause", "words"),
    [
        (FileNotFoundError(errno.ENOENT, "x"), Cause.MISSING, "QEMU is not running, or the path is wrong"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), Cause.NOBODY, "QEMU has ended, or has not started"),
        (PermissionError(errno.EACCES, "x"), Cause.DENIED, "the guard's user may not connect there"),
        (PermissionError(errno.EPERM, "x"), Cause.DENIED, "the guard's user may not connect there"),
        (BlockingIOError(errno.EAGAIN, "x"), Cause.OCCUPIED, "QEMU's monitor is occupied"),
        (OSError(errno.EMFILE, "x"), Cause.SHORTAGE, "LimitNOFILE="),
        (OSError(errno.ENFILE, "x"), Cause.SHORTAGE, "fs.file-max"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), Cause.UNREACHABLE, "No route to host"),
        (OSError("without a number"), Cause.UNREACHABLE, "without a number"),
        (TimeoutError(), Cause.UNREACHABLE, "no answer"),
        (UnavailableError("QEMU went away"), Cause.UNREACHABLE, "QEMU went away"),
        (AbsentError(Cause.HUNG, "it hangs"), Cause.HUNG, "it hangs"),
        (KeyError("odd"), Cause.FAULT, "failed: KeyError('odd')"),
    ],
    ids=repr,
)
def test_an_error_has_a_cause_and_words_that_help(error: Exception, cause: Cause, words: str) -> None:
    found = absence(error)
    assert found.cause is cause
    assert words in found.reason


def test_what_the_guard_says_of_its_own_fault_is_not_long() -> None:
    assert len(absence(ValueError("x" * 10_000)).reason) <= 4 * SHOWN


def test_an_absence_is_an_error_with_its_reason() -> None:
    error = AbsentError(Cause.CLOSED, "it closes")
    assert (str(error), error.absence) == ("it closes", Absence(Cause.CLOSED, "it closes"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"QEMU 8.2.0 monitor - type 'help' for more information\r\n", "an HMP monitor is there, no QMP: use -qmp"),
        (b"\x1b[K(qemu) ", "an HMP monitor is there"),
        (b"RFB 003.008\n", "a VNC server is there"),
        (b"HTTP/1.1 400 Bad Request\r\n", "an HTTP server is there"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "an SSH server is there"),
        (b"say HTTP/1.1", "sends no greeting of QEMU, but b'say HTTP/1.1'"),
        (b"\x00\xff", r"but b'\x00\xff'"),
    ],
)
def test_what_is_no_qemu_is_named_by_the_mistake_that_it_most_likely_is(data: bytes, words: str) -> None:
    error = foreign(data)
    assert error.absence.cause is Cause.FOREIGN
    assert words in error.absence.reason


def test_of_what_is_no_qemu_only_the_beginning_is_shown() -> None:
    assert len(foreign(b"x" * 10_000).absence.reason) < 200


#: the longest time between two attempts, by cause; None: there was a link
LONGEST: dict[Cause | None, float] = {
    **dict.fromkeys(
        (*sorted(GONE, key=str), Cause.DENIED, Cause.SHORTAGE, Cause.UNREACHABLE, Cause.DIALS), LONGEST_DELAY
    ),
    **dict.fromkeys((Cause.OCCUPIED, Cause.CLOSED, Cause.FOREIGN, Cause.HUNG, Cause.FAULT), LONGEST_UNFIT),
    **dict.fromkeys((Cause.REFUSED, None), LONGEST_UNFIT),
}


@pytest.mark.parametrize(("cause", "longest"), LONGEST.items(), ids=str)
def test_attempts_are_made_ever_later_up_to_what_their_cause_allows(cause: Cause | None, longest: float) -> None:
    back_off = BackOff()
    delays = [back_off.next(cause) for _ in range(20)]
    assert delays[0] == FIRST_DELAY
    assert delays == sorted(delays)
    assert delays[-1] == longest


def test_the_table_has_every_cause() -> None:
    assert LONGEST.keys() == {*Cause, None}


@pytest.mark.parametrize(("seconds", "steady"), [(0.0, False), (STEADY / 2, False), (STEADY, True), (3600.0, True)])
def test_only_after_a_link_that_has_lasted_the_next_attempt_is_a_first_one(seconds: float, *, steady: bool) -> None:
    back_off = BackOff()
    for _ in range(3):
        back_off.next(None)
    assert back_off.lasted(seconds) is steady
    assert (back_off.next(None) == FIRST_DELAY) is steady


def test_each_cause_is_logged_once_an_hour() -> None:
    notices, missing, denied = Notices(), Absence(Cause.MISSING, "a"), Absence(Cause.DENIED, "b")
    assert notices.admit(missing, 0.0) is not None
    assert notices.admit(missing, INTERVAL - 1) is None
    assert notices.admit(denied, 2.0) is not None
    assert notices.admit(missing, INTERVAL + 1) is not None
