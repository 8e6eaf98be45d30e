"""What holds for every test: a skip says why, CI allows none, and who must be alone is."""

import contextlib
import fcntl
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

_IN_CI = os.environ.get("CI") == "true"
_MEMORY = Path("/dev/shm")
_ENOUGH = 1 << 30
"""Bytes; a run holds a tenth of that at once."""
_SKIPPED = 6
"""Exit code of a CI run in which anything was skipped: not pytest's for failures, which are tried again."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started by a shell in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

if not _IN_CI:  # where hypothesis does the same by itself
    # A busy machine is no failure; a test that hangs is ended by pytest-timeout.
    settings.register_profile("unhurried", deadline=None)
    settings.load_profile("unhurried")


def pytest_configure(config: pytest.Config) -> None:
    """Put the temporary folders of `make test` into memory, if there is room: state is written with fsync."""
    if config.getoption("numprocesses", None) is not None and _has_room(_MEMORY):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


def _has_room(directory: Path) -> bool:
    if not os.access(directory, os.W_OK | os.X_OK):
        return False
    there = os.statvfs(directory)
    return not there.f_flag & os.ST_NOEXEC and there.f_bavail * there.f_frsize >= _ENOUGH


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run no other test beside one that is marked `alone`. It waits before its own timeout begins."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    with _room(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@contextlib.contextmanager
def _room(*, alone: bool) -> Iterator[None]:
    """A place among the tests that run, or all of it. The workers know each other by these two locks."""
    with Path(__file__).open() as room:
        turn = os.open(Path(__file__).parent, os.O_RDONLY)
        try:
            # Whoever waits keeps the turn: nobody comes in before it.
            fcntl.flock(turn, fcntl.LOCK_EX)
            fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        finally:
            os.close(turn)
        yield


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a CI run in which anything was skipped: there, everything a test needs is installed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if _IN_CI and reporter is not None and reporter.stats.get("skipped") and session.exitstatus in {0, 1}:
        session.exitstatus = _SKIPPED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured, and say why the run failed although no test did."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    called = [report for report in reports if getattr(report, "when", None) == "call"]
    if figures := [
        (each.nodeid, text) for each in called for name, text in each.user_properties if name == "figure"
    ]:
        terminalreporter.section("measured")
        for test, figure in figures:
            terminalreporter.write_line(f"{test.rpartition('::')[2]}: {figure}")
    if _IN_CI and (skipped := terminalreporter.stats.get("skipped")):
        terminalreporter.write_line(
            f"CI allows no skips, and {len(skipped)} were skipped: see above", red=True
        )
