"""`tunnelctl demo` as people run it: it works, says so, and nothing of it remains, however it ends."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunnelctl.demo import topology

TUNNELCTL = Path(sys.executable).with_name("tunnelctl")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(tmp_path), "http_proxy": "http://127.0.0.1:1"}


def _start(environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [TUNNELCTL, "demo", *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _children(pid: int) -> set[int]:
    """Every process below `pid` that is not dead."""
    below: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(") ")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == pid and state != "Z":
            below |= {int(stat.parent.name)} | _children(int(stat.parent.name))
    return below


@pytest.mark.parametrize("where", [pytest.param([], marks=needs_root), ["--loopback"]])
def test_once_checks_itself(environment: dict[str, str], where: list[str]) -> None:
    with _start(environment, "--once", *where) as demo:
        output, _ = demo.communicate(timeout=50)
    assert demo.returncode == 0, output
    answers = re.findall(r"with the tunnel: curl (\S+): (edge-\d) here", output)
    assert [name for _, name in answers] == ["edge-1", "edge-2"]
    assert "without the tunnel: curl" in output
    if not where:
        assert [url for url, _ in answers] == ["http://192.168.2.143:9081/", "http://192.168.2.144:9081/"]
    assert output.endswith("nothing of it remains\n")
    assert _leftovers(output, Path(environment["TMPDIR"])) == []


@pytest.mark.parametrize(
    ("where", "stop"),
    [pytest.param([], signal.SIGINT, marks=needs_root), (["--loopback"], signal.SIGTERM)],
)
def test_it_stays_until_it_is_stopped(
    environment: dict[str, str], where: list[str], stop: signal.Signals
) -> None:
    output = ""
    with _start(environment, *where) as demo, _watchdog(demo):
        assert demo.stdout
        for line in demo.stdout:
            output += line
            if "Ctrl-C ends it" in line:
                break
        children = _children(demo.pid)
        assert len(children) == 5, "a server, two agents and two services"
        os.kill(demo.pid, stop)
        output += demo.stdout.read()
    assert demo.returncode == 0, output
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert _leftovers(output, Path(environment["TMPDIR"])) == []


@pytest.mark.parametrize("where", [pytest.param([], marks=needs_root), ["--loopback"]])
def test_stopped_half_way_it_leaves_nothing(environment: dict[str, str], where: list[str]) -> None:
    output = ""
    with _start(environment, *where) as demo, _watchdog(demo):
        assert demo.stdout
        for line in demo.stdout:
            output += line
            if "tunnel-server runs" in line:
                break
        os.kill(demo.pid, signal.SIGINT)
        output += demo.stdout.read()
    assert demo.returncode == 130, output
    assert "Traceback" not in output
    assert _leftovers(output, Path(environment["TMPDIR"])) == []


@needs_root
def test_what_a_killed_demo_left_goes_with_the_next(environment: dict[str, str]) -> None:
    killed = ""
    with _start(environment) as demo, _watchdog(demo):
        assert demo.stdout
        for line in demo.stdout:
            killed += line
            if "Ctrl-C ends it" in line:
                break
        demo.kill()
    assert _leftovers(killed, Path()), "kill -9 can't have cleaned up"
    with _start(environment, "--once") as following:
        output, _ = following.communicate(timeout=50)
    assert following.returncode == 0, output
    assert _leftovers(killed, Path()) == []


def test_a_program_that_does_not_work_is_told_with_its_words(tmp_path: Path) -> None:
    """The server can't start: which, why, and no traceback."""
    for name in ("tunnelctl", "python3", "tunnel-agent"):
        (tmp_path / name).symlink_to(Path(sys.executable).with_name(name))
    (tmp_path / "tunnel-server").write_text("#!/bin/sh\necho no room on this ship; exit 7\n")
    (tmp_path / "tunnel-server").chmod(0o755)
    code = (
        "import sys; from pathlib import Path; from tunnelctl.demo import run\n"
        "run._BIN = Path(sys.argv[1]); sys.exit(run.run_demo(once=True, loopback=True))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "demo: cloud-server has ended with status 7" in done.stderr
    assert "no room on this ship" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("edge-tunnel-demo*"))


def _leftovers(output: str, base: Path) -> list[str]:
    """Namespaces and folders of a demo, by what it printed of itself."""
    if not (named := re.search(r"the namespaces (et-demo\d*)-cloud", output)):
        return [str(path) for path in base.glob("edge-tunnel-demo*")]
    directory = Path("/run/edge-tunnel-demo", named[1])
    return topology.existing(named[1]) + [str(directory)] * directory.exists()


@contextlib.contextmanager
def _watchdog(demo: subprocess.Popen[str]) -> Iterator[None]:
    """A demo that hangs is killed, so that reading its output ends."""
    timer = threading.Timer(40, demo.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
