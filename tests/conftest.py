"""What holds for every test: a skip says why, CI allows none, who must be alone is, and which build runs."""

import contextlib
import fcntl
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.compiled_modules import compiled_modules

_IN_CI = os.environ.get("CI") == "true"
_MEMORY = Path("/dev/shm")
_ENOUGH = 1 << 30
"""Bytes; a run holds a tenth of that at once."""
_SKIPPED = 6
"""Exit code of a CI run in which anything was skipped: not pytest's for failures, which are tried again."""

_ROOT = Path(__file__).parent.parent
_BUILD = os.environ.get("TEST_BUILD", "")
"""The folder of the compiled build that is to be tested; none: the sources are, interpreted."""

if _BUILD:
    # Before all that imports our packages. Programs that tests start look there as well, and not first where
    # they are started: that may be the sources' folder.
    sys.path.insert(0, str(_ROOT / _BUILD))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(_ROOT / _BUILD), str(_ROOT)])
    os.environ["PYTHONSAFEPATH"] = "1"

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
    _check_build(programs="PYTEST_XDIST_WORKER" not in os.environ)


@pytest.fixture(autouse=True)
def _links_begin_with_openssl() -> None:
    """As in a process of their own, unless the test loads what does without."""
    if (link_tls := sys.modules.get("tunnel_wire.link_tls")) is not None:
        link_tls._loaded = False


def _check_build(*, programs: bool) -> None:
    """Break off a run on another build than was asked for, here or in the programs that tests start."""
    wrong = []
    for name in compiled_modules():
        taken = str(importlib.import_module(f"tunnel_wire.{name}").__file__)
        if taken.endswith(".so") is not bool(_BUILD) or not taken.startswith(str(_ROOT / _BUILD)):
            wrong.append(taken)
    if programs:
        agent = str(Path(sys.executable).with_name("tunnel-agent"))
        for command in ([agent, "--version"], [sys.executable, "-m", "tunnel_agent", "--version"]):
            done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=False)
            if not done.stdout.endswith("(compiled)\n" if _BUILD else "(interpreted)\n"):
                wrong.append(f"{' '.join(command)}: {done.stdout.strip()}")
    if wrong:
        asked = f"compiled, in {_BUILD}" if _BUILD else "interpreted"
        raise pytest.UsageError(f"what is to be tested is {asked}, and these are not it:", *wrong)


def pytest_report_header() -> str:
    """Say which build is tested."""
    return f"tunnel_wire: compiled, in {_BUILD}" if _BUILD else "tunnel_wire: interpreted"


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
