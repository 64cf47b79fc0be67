"""Which descriptors clients may use."""

from __future__ import annotations

import resource

import pytest

from qmpguard.proxy.sockets.descriptors import is_reserved


@pytest.mark.parametrize(
    ("limit", "last"), [(64, 47), (1024, 767), (65536, 49151), (resource.RLIM_INFINITY, 1 << 30), (0, -1)]
)
def test_the_last_quarter_of_the_table_is_reserved(limit: int, last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert not is_reserved(last)
    assert is_reserved(last + 1) == (limit != resource.RLIM_INFINITY)
