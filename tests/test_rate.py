"""How many lines pass, and that none is left out without being counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qmpguard.rate import LogRate


def test_no_more_lines_pass_than_are_allowed_in_an_interval() -> None:
    rate = LogRate(lines=3, interval=10)
    assert [rate.admit("a", second) for second in range(5)] == ["", "", "", None, None]
    assert rate.admit("a", 10) == " (2 like it left out)"
    assert rate.admit("a", 11) == ""
    assert rate.left_out == 2


def test_one_key_does_not_use_up_the_lines_of_another() -> None:
    rate = LogRate(lines=1, interval=10)
    assert rate.admit("a", 0) == ""
    assert rate.admit("a", 1) is None
    assert rate.admit("b", 1) == ""


def test_a_key_that_falls_silent_is_told_of_once() -> None:
    rate = LogRate(lines=1, interval=10)
    rate.admit("a", 0)
    rate.admit("a", 1)
    assert list(rate.silent(9)) == []
    assert list(rate.silent(10)) == [("a", 1)]
    assert list(rate.silent(20)) == []


def test_the_number_of_keys_is_bounded_and_the_busiest_stay() -> None:
    rate = LogRate(lines=1, interval=1000, keys=8)
    rate.admit("busy", 0)
    for key in range(100):
        rate.admit(key, 1)
        assert rate.admit("busy", 1) is None
    assert rate.admit(0, 2) == ""  # forgotten long ago


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 5)), max_size=60))
def test_every_line_passes_or_is_counted(steps: list[tuple[str, float]]) -> None:
    rate, now, passed, told = LogRate(lines=2, interval=7), 0.0, 0, 0
    for key, pause in steps:
        now += pause
        if (more := rate.admit(key, now)) is not None:
            passed += 1
            told += int(more.split()[0][1:]) if more else 0
    told += sum(number for _, number in rate.silent(now + 7.5))
    assert passed + told == len(steps)
    assert rate.left_out == told
