"""How fast clients may come in: a burst at once, then a steady rate, and nothing is saved beyond the burst."""

from __future__ import annotations

import pytest

from qmpguard.config import Limits
from qmpguard.proxy.listening.accept_rate import BURST, AcceptRate


def test_after_a_burst_a_client_comes_in_whenever_a_token_is_there() -> None:
    rate = AcceptRate(burst=2, rate=10.0)
    assert rate.wait(100.0) == 0.0
    rate.spend()
    rate.spend()
    assert rate.wait(100.0) == pytest.approx(0.1)
    assert rate.wait(100.05) == pytest.approx(0.05)
    assert rate.wait(100.11) == 0.0


def test_no_more_than_the_burst_is_saved_however_long_it_is_quiet() -> None:
    rate = AcceptRate(burst=2, rate=10.0)
    assert rate.wait(1e6) == 0.0
    rate.spend()
    rate.spend()
    assert rate.wait(1e6) > 0.0


def test_asking_spends_nothing() -> None:
    rate = AcceptRate(burst=1, rate=10.0)
    assert [rate.wait(5.0) for _ in range(100)] == [0.0] * 100


def test_in_the_long_run_the_rate_holds() -> None:
    rate, now, came = AcceptRate(burst=5, rate=10.0), 0.0, 0
    while now < 100.0:
        if (wait := rate.wait(now)) == 0.0:
            rate.spend()
            came += 1
        now += max(wait, 0.001)  # a clock goes on
    assert came == pytest.approx(5 + 100 * 10, rel=0.02)


def test_all_clients_of_a_vm_may_come_back_at_once() -> None:
    assert Limits().max_clients <= BURST
