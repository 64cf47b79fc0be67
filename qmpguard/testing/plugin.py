"""The pytest plugin: fixtures with a real, a guarded and a simulated QEMU. docs/testing.md describes them.

Pytest loads it in every run, so it imports nothing before a fixture is used.
"""

from __future__ import annotations

import os
import shutil
import tempfile
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
    "qemu_options(*arguments, machine='pc', memory='64', monitors=1): the command line of the QEMU of a fixture",
    "guarded(fixture='qemu', *, mode, profile, rules, extra_types): the QEMU of guarded_qemu, and the guard's policy",
    "simulated(file=None, *, version, devices, capabilities, runstate, migration, fails): the QEMU of simulated_qemu",
)


class StartQemu(Protocol):
    """What `start_qemu` yields."""

    def __call__(self, *arguments: str, binary: Path | None = None, **options: Any) -> TestedQemu:
        """Start a QEMU with these arguments; ``options`` are those of the marker `qemu_options`."""
        ...


class StartGuard(Protocol):
    """What `start_guard` yields."""

    def __call__(self, qemu: TestedQemu | Path | str, **policy: Any) -> GuardedQemu:
        """Put a guard before a QEMU, or before whatever listens at a path; ``policy`` is as in the marker `guarded`."""
        ...


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
def qemu_binary(request: pytest.FixtureRequest) -> Path:
    """Return the QEMU that `qemu` and `start_qemu` start: the system's, or an indirect parameter.

    A parameter is a path, or a function that returns one. A test suite with a QEMU of its own overrides this fixture.
    """
    from qmpguard.demo.lab import system_qemu

    return _found(request.config, getattr(request, "param", system_qemu))


@pytest.fixture
def vfio_device(qmpguard_background: Background, qmpguard_folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the arguments of `device_add` for a real VFIO device `gpu0`, which QEMU 10.1 and later can have."""
    from qmpguard.demo.qemu import vfio_user_device
    from qmpguard.demo.vfio_user import VfioUserServer

    with qmpguard_background.holding(VfioUserServer(qmpguard_folder / "vfio.sock")) as device:
        yield vfio_user_device(device.path, id="gpu0")


@pytest.fixture
def start_qemu(
    request: pytest.FixtureRequest, qmpguard_background: Background, qmpguard_folder: Path
) -> Iterator[StartQemu]:
    """Yield a function that starts a real QEMU, which runs until the test ends; each call starts another."""
    from qmpguard.testing.starting import Starter

    with Starter(qmpguard_background, qmpguard_folder) as starter:

        def start(*arguments: str, binary: Path | None = None, **options: Any) -> TestedQemu:
            return starter.qemu(binary or request.getfixturevalue("qemu_binary"), arguments, **options)

        yield start


@pytest.fixture
def start_guard(qmpguard_background: Background, qmpguard_folder: Path) -> Iterator[StartGuard]:
    """Yield a function that puts a guard before a QEMU, with the policy that its arguments name."""
    from qmpguard.testing.starting import Starter

    with Starter(qmpguard_background, qmpguard_folder) as starter:

        def start(qemu: TestedQemu | Path | str, **policy: Any) -> GuardedQemu:
            return starter.guard(qemu, _policy(policy))

        yield start


@pytest.fixture
def qemu(request: pytest.FixtureRequest, start_qemu: StartQemu) -> TestedQemu:
    """Return a real QEMU, `qemu_binary`, with the arguments of the marker `qemu_options`."""
    arguments, options = _options(request)
    return start_qemu(*arguments, **options)


@pytest.fixture
def qemu_with_vfio(request: pytest.FixtureRequest, start_qemu: StartQemu, vfio_device: dict[str, Any]) -> TestedQemu:
    """Return a real QEMU with a real VFIO device `gpu0`: QEMU 10.1 or later with `vfio-user-pci`."""
    import json

    from qmpguard.demo.lab import vfio_qemu

    arguments, options = _options(request)
    binary = _found(request.config, vfio_qemu)
    return start_qemu(*arguments, "-device", json.dumps(vfio_device), **{"binary": binary, **options})


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
def guarded_qemu(request: pytest.FixtureRequest, start_guard: StartGuard) -> GuardedQemu:
    """Return a QEMU behind a guard: that of the fixture and with the policy that the marker `guarded` names."""
    mark = request.node.get_closest_marker("guarded")
    fixture = mark.args[0] if mark is not None and mark.args else "qemu"
    return start_guard(request.getfixturevalue(fixture), **({} if mark is None else mark.kwargs))


@pytest.fixture
def assert_same_as_qemu(request: pytest.FixtureRequest, start_qemu: StartQemu, start_guard: StartGuard) -> SameAsQemu:
    """Return a function that calls a client at a new QEMU and at a guard of another, and compares."""
    from qmpguard.testing.assertions import differences

    def same(client: Callable[[Path], object]) -> None:
        arguments, options = _options(request)
        direct, behind = start_qemu(*arguments, **options), start_qemu(*arguments, **options)
        found = differences(client(direct.path), client(start_guard(behind).path))
        assert not found, "\n".join(f"QEMU: {one}\nguard: {two}" for one, two in found)

    return same


def _options(request: pytest.FixtureRequest) -> tuple[list[str], dict[str, Any]]:
    mark = request.node.get_closest_marker("qemu_options")
    return ([], {}) if mark is None else (list(mark.args), dict(mark.kwargs))


def _found(config: pytest.Config, binary: Path | str | Callable[[], Path]) -> Path:
    """Return a QEMU's path. Where it is missing, the test is skipped or fails."""
    from qmpguard.demo.lab import LabUnavailable

    try:
        return binary() if callable(binary) else Path(binary)
    except LabUnavailable as error:
        _missing(config, str(error))


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


def _policy(given: dict[str, Any]) -> Policy:
    from qmpguard.policy.mode import Mode, Profile
    from qmpguard.policy.policy import Policy

    return Policy(
        Mode(given.get("mode", "enforce")),
        Profile(given.get("profile", "standard")),
        {rule: Mode(mode) for rule, mode in given.get("rules", {}).items()},
        frozenset(given.get("extra_types", ())),
    )
