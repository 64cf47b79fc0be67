"""The QEMUs that tests run on: the system's, and 11.1, which can have a VFIO device without hardware."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pytest

from qmpguard.demo.lab import system_qemu, vfio_qemu

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_T = TypeVar("_T", bound="Callable[..., object]")

#: for a parametrization; each is a function that finds the QEMU
QEMUS = [
    pytest.param(system_qemu, id="system", marks=pytest.mark.qemu),
    pytest.param(vfio_qemu, id="11.1", marks=pytest.mark.qemu11),
]
#: for the fixtures `qemu`, `guarded_qemu` and `start_qemu` of all tests of a module, as its `pytestmark`
NAMED = pytest.mark.usefixtures("qemu_binary")
EACH = [NAMED, pytest.mark.parametrize("qemu_binary", QEMUS, indirect=True)]
NEW = [NAMED, pytest.mark.parametrize("qemu_binary", QEMUS[1:], indirect=True)]


def on_each(test: _T) -> _T:
    """Run a test on each QEMU."""
    return _marked(test, EACH)


def on_new(test: _T) -> _T:
    """Run a test on QEMU 11.1."""
    return _marked(test, NEW)


def _marked(test: _T, marks: Sequence[pytest.MarkDecorator]) -> _T:
    for mark in marks:
        test = mark(test)
    return test
