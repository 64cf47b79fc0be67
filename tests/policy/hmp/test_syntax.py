"""The syntax of HMP: names, the types of arguments, and the two ways to write options, each by itself."""

from __future__ import annotations

import re
from itertools import chain, product
from typing import TYPE_CHECKING

import pytest

from qmpguard.policy.hmp import syntax
from qmpguard.policy.hmp.syntax import (
    MAX_NAME,
    Arguments,
    Line,
    LineError,
    is_keyval_key,
    parse_line,
    read_keyval,
    read_options,
    read_pairs,
)

if TYPE_CHECKING:
    from collections.abc import Callable

#: the same without possessive quantifiers, which Python before 3.11.5 misreads around groups
NAME = "(?:__[A-Za-z0-9.-]*_)?[A-Za-z][A-Za-z0-9_-]*"
PLAINLY = [
    (is_keyval_key, re.compile(rf"{NAME}(?:\.(?:[0-9]+|{NAME}))*"), "a_.1-"),
    (syntax._QUOTED.fullmatch, re.compile(r"""["](?:[^"\\]|\\[nr\\'"])*["]"""), '"\\na'),
    (syntax._VALUE.fullmatch, re.compile(r"(?:[^,]|,,)*,?"), "a,"),
]


@pytest.mark.parametrize(("ours", "plain", "alphabet"), PLAINLY, ids=["keys", "quoted strings", "values"])
def test_every_python_reads_the_same(ours: Callable[[str], object], plain: re.Pattern[str], alphabet: str) -> None:
    for text in map("".join, chain.from_iterable(product(alphabet, repeat=size) for size in range(7))):
        assert bool(ours(text)) == bool(plain.fullmatch(text)), text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", Line("", "")),
        (" \t\n\v\f\r", Line("", "")),
        ("stop", Line("stop", "")),
        (" \n stop \t x ", Line("stop", "x ")),
        ("migrate/-d tcp:x", Line("migrate", "/-d tcp:x")),
        ("migrate /x", Line("migrate", "/x")),
        ("/migrate", Line("", "/migrate")),
        ("migrate;stop", Line("migrate;stop", "")),
        ('"migrate" x', Line('"migrate"', "x")),
        ("a\nb", Line("a", "b")),
        ("a\u00a0b\u2003c\x1fd", Line("a\u00a0b\u2003c\x1fd", "")),
        ("n" * 300 + " x", Line("n" * MAX_NAME, "x")),
        ("\ud800 x", Line("\ufffd" * 3, "x")),
    ],
)
def test_a_name_ends_at_c_white_space_or_a_slash_and_is_cut_at_255_bytes(text: str, line: Line) -> None:
    assert parse_line(text) == line


def test_arguments_are_taken_from_the_left_by_their_types() -> None:
    arguments = Arguments(' -d "a b" on rest  of it ')
    assert arguments.flags("dr") == {"d"}
    assert arguments.string() == "a b"
    assert arguments.switch() is True
    assert arguments.optional_remainder() == "rest  of it "
    assert arguments.optional_string() is None
    arguments.end()


@pytest.mark.parametrize(
    ("text", "take", "reason", "newer"),
    [
        ("-x", lambda arguments: arguments.flags("d"), "unsupported option -x", True),
        ("", Arguments.string, "string expected", False),
        ('"open', Arguments.string, "string expected", False),
        ("  ", Arguments.remainder, "string expected", False),
        ("On", Arguments.switch, "Expected 'on' or 'off'", False),
        ("more", Arguments.end, "extraneous characters at the end of line", True),
    ],
)
def test_what_does_not_fit_its_type_says_whether_a_later_qemu_may_take_it(
    text: str, take: Callable[[Arguments], object], reason: str, *, newer: bool
) -> None:
    with pytest.raises(LineError, match=reason) as caught:
        take(Arguments(text))
    assert caught.value.newer is newer


def test_pairs_come_in_their_order_and_only_the_first_may_imply_its_name() -> None:
    assert list(read_pairs("user,id=n,guestfwd=a,,b,guestfwd=c,nox,y", "type")) == [
        *(("type", "user"), ("id", "n"), ("guestfwd", "a,b"), ("guestfwd", "c"), ("x", "off"), ("y", "on"))
    ]
    assert list(read_pairs("user", None)) == [("user", "on")]


def test_of_options_the_last_wins_but_for_the_id() -> None:
    assert read_options("e1000,x=1,id=a,x=2,id=b") == {"id": "a", "driver": "e1000", "x": "2"}


def test_keys_and_values_have_no_flags_and_no_doubled_comma_in_an_implied_first_value() -> None:
    assert list(read_keyval("secret,id=a,data=b,,c")) == [("qom-type", "secret"), ("id", "a"), ("data", "b,c")]
    with pytest.raises(LineError, match="Invalid parameter ''"):
        list(read_keyval("secret,,x=1"))
    with pytest.raises(LineError, match="Expected '=' after parameter 'flag'"):
        list(read_keyval("secret,flag"))
