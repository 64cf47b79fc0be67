"""What holds for all tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from qmpguard.demo.lab import LabUnavailable, userfaultfd

# programs under test buffer what they print, as users' do, whatever the environment of the tests says
os.environ.pop("PYTHONUNBUFFERED", None)
# a busy machine is no failure
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Say in one line what a test lacks; `make test` leaves it out, unless it runs in CI."""
    if item.get_closest_marker("userfaultfd"):
        try:
            userfaultfd()
        except LabUnavailable as error:
            pytest.fail(str(error), pytrace=False)
