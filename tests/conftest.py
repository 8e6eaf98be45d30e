"""What holds for every test: a skip says why, and CI allows none."""

import os

import pytest
from hypothesis import settings

_IN_CI = os.environ.get("CI") == "true"

if not _IN_CI:  # where hypothesis does the same by itself
    # A busy machine is no failure; a test that hangs is ended by pytest-timeout.
    settings.register_profile("unhurried", deadline=None)
    settings.load_profile("unhurried")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a CI run in which anything was skipped: there, everything a test needs is installed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if _IN_CI and reporter is not None and reporter.stats.get("skipped") and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why the run failed although no test did."""
    if _IN_CI and (skipped := terminalreporter.stats.get("skipped")):
        terminalreporter.write_line(
            f"CI allows no skips, and {len(skipped)} were skipped: see above", red=True
        )
