"""The lexer: bytes become tokens, whole or byte by byte, and what is no token is named with the byte that is not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpguard.wire.lexer import BLOCK, START, Kind, Lexer

if TYPE_CHECKING:
    from collections.abc import Iterator

Token = tuple[Kind, str]

INTEGER, FLOAT, KEYWORD, STRING, STRAY = Kind.INTEGER, Kind.FLOAT, Kind.KEYWORD, Kind.STRING, Kind.STRAY

#: bytes, and their tokens; a space at the end completes a number or a word
CASES: list[tuple[bytes, list[Token]]] = [
    (b"", []),
    (b" \t\r\n", []),
    (b"{}[]:,", [(kind, kind.value) for kind in list(Kind)[:6]]),
    (b"true fals ", [(KEYWORD, "true"), (KEYWORD, "fals")]),
    (b"0 -0 12 -7 ", [(INTEGER, "0"), (INTEGER, "-0"), (INTEGER, "12"), (INTEGER, "-7")]),
    (b"1.5 -0.25 2e3 2E+3 2.5e-3 ", [(FLOAT, text) for text in ("1.5", "-0.25", "2e3", "2E+3", "2.5e-3")]),
    (b"1,2 ", [(INTEGER, "1"), (Kind.COMMA, ","), (INTEGER, "2")]),
    (b'"a b" \'c"d\' ', [(STRING, '"a b"'), (STRING, "'c\"d'")]),
    (rb'"\"\\\n\q" ', [(STRING, r'"\"\\\n\q"')]),
    (b'"\xc3\xa9"', [(STRING, '"\xc3\xa9"')]),  # Latin-1: strings are decoded when they are read
    (b"nul1 ", [(KEYWORD, "nul"), (INTEGER, "1")]),
    # errors: the token with the byte that cannot be part of it; then all up to where a client may begin anew
    (b"0e1 ", [(INTEGER, "0"), (KEYWORD, "e"), (INTEGER, "1")]),
    (b"01 ", [(STRAY, "01")]),
    (b"-x}", [(STRAY, "-x"), (Kind.RCURLY, "}")]),
    (b"1.x ", [(STRAY, "1.x")]),
    (b"1e} ", [(STRAY, "1e}")]),
    (b'"a\nb"', [(STRAY, '"a\n')]),
    (b"\xff{", [(STRAY, "\xff"), (Kind.LCURLY, "{")]),
    (b"@junk junk[", [(STRAY, "@"), (Kind.LSQUARE, "[")]),
    (b"True ", [(STRAY, "T")]),
]


def tokens(lexer: Lexer, pieces: Iterator[bytes] | list[bytes]) -> list[Token]:
    found = []
    for piece in pieces:
        lexer.feed(piece)
        while lexer.unscanned:
            if lexer.position == len(lexer.text):
                lexer.turn()
            while (token := lexer.next()) is not None:
                found.append(token)
    return found


@pytest.mark.parametrize(("data", "result"), CASES, ids=str)
def test_tokens_are_the_same_whole_and_byte_by_byte(data: bytes, result: list[Token]) -> None:
    assert tokens(Lexer(1000), [data]) == result
    assert tokens(Lexer(1000), [bytes([byte]) for byte in data]) == result


@pytest.mark.parametrize("data", [b"1", b"tru", b'"a', b'"a\\', b"-", b"1.", b"1e", b"1e+"])
def test_a_token_is_unfinished_until_a_byte_says_that_it_is_over(data: bytes) -> None:
    lexer = Lexer(1000)
    assert tokens(lexer, [data]) == []
    assert lexer.state is not START
    assert (lexer.unscanned, lexer.held) == (0, len(data))


def test_between_tokens_nothing_is_held() -> None:
    lexer = Lexer(1000)
    assert tokens(lexer, [b" {} "]) == [(Kind.LCURLY, "{"), (Kind.RCURLY, "}")]
    assert lexer.state is START
    assert lexer.held == 0


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_a_token_over_the_limit_is_reported_once_and_not_kept(step: int) -> None:
    data = b'"' + b"x" * 5000 + b'" 1 '
    lexer = Lexer(100)
    found = tokens(lexer, [data[i : i + step] for i in range(0, len(data), step)])
    assert [kind for kind, _ in found] == [Kind.OVERLONG, STRING, INTEGER]
    assert found[0][1] == '"' + "x" * 100, "one byte more than the limit"
    assert lexer.held == 0


def test_of_a_token_over_the_limit_no_byte_waits() -> None:
    lexer = Lexer(100)
    assert tokens(lexer, [b'"' + b"x" * 5000])[0][0] is Kind.OVERLONG
    assert lexer.held == 0


def test_one_block_is_scanned_before_the_caller_gets_its_turn() -> None:
    lexer = Lexer(1000)
    lexer.feed(b"1 " * BLOCK)
    lexer.turn()
    count = 0
    while lexer.next() is not None:
        count += 1
    assert count == BLOCK // 2
    assert lexer.unscanned == BLOCK


# Invariant: however its bytes are cut, and whatever they are, the same tokens come; none of them raises; and every
# byte that is no white space is in a token, or belongs to an error.
@given(st.lists(st.sampled_from([b"{", b"}", b'"', b"\\", b"1", b".", b"e", b"-", b" ", b"a", b"\xff", b"\n", b"'"])))
def test_cutting_makes_no_difference(pieces: list[bytes]) -> None:
    assert tokens(Lexer(10), pieces) == tokens(Lexer(10), [b"".join(pieces)] if pieces else [])


# Invariant: what is valid JSON is cut where the standard library would cut it.
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=10))
def test_of_valid_json_no_byte_is_lost(value: object) -> None:
    text = json.dumps(value, separators=(",", ":"))
    found = tokens(Lexer(10_000), [text.encode() + b" "])
    assert "".join(token for _, token in found) == text
    assert STRAY not in {kind for kind, _ in found}
