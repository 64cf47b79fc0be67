"""The pytest plugin: fixtures with a real, a guarded and a simulated QEMU. docs/testing.md describes them.

Pytest loads it in every run, so it imports nothing before a fixture is used.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qmpguard.policy.policy import Policy
    from qmpguard.testing.background import Background
    from qmpguard.testing.machines import GuardedQemu, SimulatedByFixture, TestedQemu

#: the setting for a missing QEMU, and the environment variable that is stronger
MISSING, MISSING_VARIABLE = "qmpguard_missing_qemu", "QMPGUARD_TESTING_MISSING"
#: the markers and their documentation
MARKERS = (
    "qemu_options(*arguments, machine='pc', memory='64'): the command line of the QEMU of a fixture",
    "guarded(fixture='qemu', *, mode, profile, rules, extra_types): the QEMU of guarded_qemu, and the guard's policy",
    "simulated(file=None, *, version, devices, capabilities, runstate, migration, fails): the QEMU of simulated_qemu",
)


class SameAsQemu(Protocol):
    """What `assert_same_as_qemu` yields."""

    def __call__(self, client: Callable[[Path], object]) -> None:
        """Call a client with QEMU's socket and with a guard's, and compare what it returns.

        Raises `AssertionError` where it differs, apart from the guard's refusals.
        """
        ...


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting."""
    text = f"tests whose QEMU is missing: skip (the default) or fail; {MISSING_VARIABLE} in the environment is stronger"
    parser.addini(MISSING, text, default="skip")


def pytest_configure(config: pytest.Config) -> None:
    """Describe the markers, so that --strict-markers knows them."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


@pytest.fixture(scope="session")
def qmpguard_background() -> Iterator[Background]:
    """Yield the event loop in which the fixtures run what is asynchronous."""
    from qmpguard.testing.background import Background

    background = Background()
    yield background
    background.close()


@pytest.fixture
def qmpguard_folder() -> Iterator[Path]:
    """Yield a new folder with a short path: a socket's path has at most 107 bytes."""
    folder = tempfile.mkdtemp(prefix="qmpguard-")
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def qemu(
    request: pytest.FixtureRequest, qmpguard_background: Background, qmpguard_folder: Path
) -> Iterator[TestedQemu]:
    """Yield a real QEMU: `qemu-system-x86_64`, with the arguments of the marker `qemu_options`."""
    with _real(request, qmpguard_background, qmpguard_folder, vfio=False) as found:
        yield found


@pytest.fixture
def qemu_with_vfio(
    request: pytest.FixtureRequest, qmpguard_background: Background, qmpguard_folder: Path
) -> Iterator[TestedQemu]:
    """Yield a real QEMU with a real VFIO device `gpu0`: QEMU 10.1 or later with `vfio-user-pci`."""
    with _real(request, qmpguard_background, qmpguard_folder, vfio=True) as found:
        yield found


@pytest.fixture
def simulated_qemu(
    request: pytest.FixtureRequest, qmpguard_background: Background, qmpguard_folder: Path
) -> Iterator[SimulatedByFixture]:
    """Yield a simulated QEMU, as the marker `simulated` describes it."""
    from qmpguard.address import UnixAddress
    from qmpguard.simulator.server import simulating
    from qmpguard.testing.machines import SimulatedByFixture

    path = qmpguard_folder / "simulated.sock"
    with qmpguard_background.holding(simulating(_described(request), UnixAddress(str(path)))) as simulated:
        found = SimulatedByFixture(path, simulated.monitor)
        yield found
        found.close()


@pytest.fixture
def guarded_qemu(
    request: pytest.FixtureRequest, qmpguard_background: Background, qmpguard_folder: Path
) -> Iterator[GuardedQemu]:
    """Yield a QEMU behind a guard: that of the fixture and with the policy that the marker `guarded` names."""
    mark = request.node.get_closest_marker("guarded")
    fixture = mark.args[0] if mark is not None and mark.args else "qemu"
    behind = request.getfixturevalue(fixture)
    with _guarded(qmpguard_background, qmpguard_folder, behind, _policy(mark)) as found:
        yield found


@pytest.fixture
def assert_same_as_qemu(
    request: pytest.FixtureRequest, qmpguard_background: Background, qmpguard_folder: Path
) -> SameAsQemu:
    """Return a function that calls a client at a new QEMU and at a guard of another, and compares."""
    from qmpguard.policy.policy import Policy
    from qmpguard.testing.assertions import differences

    def same(client: Callable[[Path], object]) -> None:
        with ExitStack() as stack:
            one, two = qmpguard_folder / "one", qmpguard_folder / "two"
            direct = stack.enter_context(_real(request, qmpguard_background, one, vfio=False))
            behind = stack.enter_context(_real(request, qmpguard_background, two, vfio=False))
            guarded = stack.enter_context(_guarded(qmpguard_background, two, behind, Policy()))
            found = differences(client(direct.path), client(guarded.path))
        assert not found, "\n".join(f"QEMU: {one}\nguard: {two}" for one, two in found)

    return same


@contextmanager
def _guarded(background: Background, folder: Path, behind: TestedQemu, policy: Policy) -> Iterator[GuardedQemu]:
    from qmpguard.embedding import guarding
    from qmpguard.testing.machines import GuardedQemu

    path = folder / "guard.sock"
    with background.holding(guarding(str(behind.path), str(path), policy=policy)) as guard:
        found = GuardedQemu(path, behind, guard, background)
        try:
            yield found
        finally:
            found.close()


@contextmanager
def _real(request: pytest.FixtureRequest, background: Background, folder: Path, *, vfio: bool) -> Iterator[TestedQemu]:
    from qmpguard.demo.lab import LabUnavailable, system_qemu, vfio_qemu
    from qmpguard.demo.qemu import Qemu
    from qmpguard.testing.machines import TestedQemu

    try:
        binary = vfio_qemu() if vfio else system_qemu()
    except LabUnavailable as error:
        _missing(request.config, str(error))
    mark = request.node.get_closest_marker("qemu_options")
    arguments, options = (list(mark.args), dict(mark.kwargs)) if mark is not None else ([], {})
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        if vfio:
            arguments += _vfio_arguments(stack, background, folder)
        running = stack.enter_context(
            background.holding(Qemu(binary, folder, arguments, **{"machine": "pc", **options}))
        )
        found = TestedQemu(running.monitors[0])
        stack.callback(found.close)
        yield found


def _vfio_arguments(stack: ExitStack, background: Background, folder: Path) -> list[str]:
    import json

    from qmpguard.demo.qemu import vfio_user_device
    from qmpguard.demo.vfio_user import VfioUserServer

    device = stack.enter_context(background.holding(VfioUserServer(folder / "vfio.sock")))
    return ["-device", json.dumps(vfio_user_device(device.path, id="gpu0"))]


def _missing(config: pytest.Config, reason: str) -> NoReturn:
    """Skip or fail a test whose QEMU is missing, with one line."""
    if os.environ.get(MISSING_VARIABLE, config.getini(MISSING)) == "fail":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _described(request: pytest.FixtureRequest) -> Any:
    from qmpguard.simulator.description import Description, read_description

    mark = request.node.get_closest_marker("simulated")
    if mark is None:
        return Description()
    if mark.args:
        path = Path(mark.args[0])
        path = path if path.is_absolute() else request.path.parent / path
        return read_description(path.read_text(), str(path))
    given: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in mark.kwargs.items()}
    return Description(**given)


def _policy(mark: pytest.Mark | None) -> Policy:
    from qmpguard.policy.mode import Mode, Profile
    from qmpguard.policy.policy import Policy

    given: dict[str, Any] = {} if mark is None else dict(mark.kwargs)
    return Policy(
        Mode(given.get("mode", "enforce")),
        Profile(given.get("profile", "standard")),
        {rule: Mode(mode) for rule, mode in given.get("rules", {}).items()},
        frozenset(given.get("extra_types", ())),
    )
