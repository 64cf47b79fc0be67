"""Says how many rows the golden tables have."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    from tests.policy.test_honest import HONEST, STRICT_HONEST
    from tests.policy.test_routes import ROUTES, STRICT_ROUTES

    terminalreporter.write_line(
        f"golden tables: {len(ROUTES)} routes to harm, {len(STRICT_ROUTES)} more in profile strict, "
        f"{len(HONEST)} honest requests, {len(STRICT_HONEST)} that must pass in strict too"
    )
