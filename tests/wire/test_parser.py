"""What a string means is decided by our own reading of QEMU's; the standard library is only quicker where it agrees."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qmpguard.settings.sections import REQUEST_RANGE
from qmpguard.wire import parser
from qmpguard.wire.json import encode_for_qemu
from qmpguard.wire.parser import Fault, read_string

#: bytes, as text of the same code points
PIECES = [
    *("a", " ", "\x7f", '"', "'", "/", r"\"", r"\'", r"\\", r"\/", r"\b", r"\n", r"\x", r"\u", r"\u12", r"\u00e9"),
    *(r"\u0000", r"\uD800", r"\udc00", r"\ud83d\ude00", r"\uDBFF\uDFFF", r"\ufffe", r"\uFDD0", r"\ufffd", r"\u+123"),
    *("\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xc0\x80", "\xc3", "\x80", "\xed\xa0\x80", "\xef\xbf\xbe"),
    *("\xef\xb7\x90", "\xf0\x9f\xbf\xbf", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", "\xe0\x80\x80", "\xef\xbf\xbd"),
]
BODIES = st.lists(st.sampled_from(PIECES), max_size=6).map("".join) | st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFD)
)


@given(BODIES)
@settings(max_examples=2000)
@example(r"\ud83d" + "\xed\xb8\x80")
@example(r"\\u0041\u005c")
def test_the_quick_way_is_taken_only_where_it_leads_to_the_same(body: str) -> None:
    quick = parser._read_quickly(body)
    if quick is not None:
        assert parser._read_carefully(f'"{body}"') == quick


@pytest.mark.parametrize(
    ("body", "text"), [("\xc3\xa9" * 3, "ééé"), (r"a\n\u00e9\ud83d\ude00", "a\né😀"), (r"\u0000", "\0")]
)
def test_the_quick_way_is_taken_where_it_can_be(body: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(parser, "_read_carefully")
    assert read_string(f'"{body}"') == text


@pytest.mark.parametrize("body", [r"\ud800", r"\ufffe", "\xef\xbf\xbf", "\xed\xa0\x80", r"\x"])
def test_what_qemu_refuses_is_refused(body: str) -> None:
    with pytest.raises(Fault):
        read_string(f'"{body}"')


def test_what_only_qemu_takes_is_taken() -> None:
    assert read_string(r"""'"\''""") == "\"'"
    assert read_string('"\xc0\x80"') == "\0"


@given(BODIES, st.sampled_from("\"'"))
@settings(max_examples=1000)
@example("\xc3\xa9" * 9, '"')
def test_a_string_is_at_most_six_times_as_long_when_it_is_written_for_qemu(body: str, quote: str) -> None:
    """So that what the largest setting lets in is within QEMU's own limit."""
    token = f"{quote}{body}{quote}"
    with suppress(Fault):
        assert len(encode_for_qemu(read_string(token))) <= 6 * len(token)
    assert 6 * REQUEST_RANGE[1] < 64 << 20
