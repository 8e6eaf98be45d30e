"""The suite as somebody runs it, with tiny sizes: no figure decides anything here."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.accounting import descendants
from bench.builds import LIBRARY, Build, product
from bench.peers.tunnel import Tunnel
from bench.results import Results
from bench.routes import missing_for_shaping

pytestmark = pytest.mark.timeout(180)  # whole runs, also on a machine that has much to do

ROOT = Path(__file__).parents[2]
BENCH = [sys.executable, "-m", "bench"]


def bench(*words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BENCH, *words], cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **more}
    )


def test_a_quick_run_of_this_tunnel_beside_none(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    loads = "bulk down,bulk up,16 streams,echo,echo under bulk,connections,connections x32,stalled reader"
    done = bench("--quick", "--peers", "direct,edge-tunnel", "--loads", loads, "--json", file)
    assert done.returncode == 0, done.stderr
    results = Results.read(file)
    assert results.complete
    assert {(each.peer, each.load) for each in results.samples} == {
        (peer, load) for peer in ("direct", "edge-tunnel") for load in loads.split(",")
    }
    assert [each for each in results.samples if each.failed] == []
    assert all(each.figures.get("rate", 1.0) > 0 for each in results.samples)
    assert "## Throughput" in done.stdout
    assert f"edge-tunnel {product().name}, 1 round, quick" in done.stdout
    assert f"- edge-tunnel {Tunnel(build=product()).available()}: " in done.stdout
    shown = bench("--show", file)
    assert shown.returncode == 0
    assert shown.stdout.strip() in done.stdout
    again = bench(
        "--quick", "--peers", "direct,edge-tunnel", "--loads", loads, "--resume", file, "--json", file
    )
    assert again.returncode == 0, again.stderr
    assert Results.read(file).samples == results.samples
    assert " round 1, " not in again.stdout


def test_what_other_machines_measured_is_not_resumed(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    Results({"cpu": "another"}, True, 1, [], ["echo"]).write(file)
    done = bench("--quick", "--loads", "echo", "--resume", file)
    assert done.returncode == 1
    assert done.stderr == f"bench: {file} is of another machine, other versions or other sizes: begin anew\n"


@pytest.mark.skipif(missing_for_shaping() is not None, reason=f"no shaped routes: {missing_for_shaping()}")
def test_long_and_lossy_links(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    loads = "long link,first answer,lossy link,lossy echo"
    done = bench("--quick", "--peers", "direct", "--loads", loads, "--json", file)
    assert done.returncode == 0, done.stderr
    figures = {each.load: each.figures for each in Results.read(file).samples}
    assert figures["first answer"]["p50"] > 100  # as little: 50 ms each way
    assert figures["lossy echo"]["p50"] > 20_000  # not a speed: 10 ms each way are the least
    assert figures["long link"]["rate"] < 130  # nor this: the line takes 125 MB/s


def test_what_is_absent_is_listed_and_what_needs_more_is_not_measured(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    done = bench(
        "--quick", "--peers", "direct,bore", "--loads", "long link", "--json", file, PATH="/nonexistent"
    )
    assert done.returncode == 0, done.stderr
    assert "- bore (not encrypted): **not installed" in done.stdout
    assert "- not measured: long link: unshare is not installed: apt-get install util-linux" in done.stdout
    assert json.loads(file.read_text())["samples"] == []


def test_what_cannot_be_saved_is_known_before_anything_is_measured(tmp_path: Path) -> None:
    done = bench("--quick", "--json", tmp_path / "nowhere" / "run.json")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("bench: [Errno 2] No such file or directory: ")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--peers", "smoke signals"], "bench: no peer is called 'smoke signals'; there are: direct, "),
        (["--loads", "bulk down,gold"], "bench: no load is called 'gold'; there are: bulk down, "),
        (["--show", "/nonexistent/run.json"], "bench: [Errno 2] No such file"),
    ],
)
def test_what_is_not_there_is_one_line(words: list[str], complaint: str) -> None:
    done = bench(*words)
    assert done.returncode == 1
    assert done.stderr.startswith(complaint)
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """There is a compiled build, of no sources that are here."""
    (tmp_path / ".made").touch()
    (tmp_path / f"{LIBRARY}{EXTENSION_SUFFIXES[0]}").touch()
    for module in ("bench.__main__", "bench.builds"):
        monkeypatch.setattr(f"{module}.COMPILED", Build("compiled", tmp_path))
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.usefixtures("stale")
def test_a_compiled_build_of_other_sources_is_never_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--peers", "edge-tunnel", "--loads", "echo"])
    assert main() == 1
    output, error = capsys.readouterr()
    assert output == ""
    assert re.fullmatch(r"bench: \S+ is older than \S+\.py: rm -r \S+, then make compiled \(.*\)\n", error)


@pytest.mark.usefixtures("stale")
@pytest.mark.parametrize("words", [["--quick", "--peers", "edge-tunnel"], ["--peers", "direct"]])
def test_it_is_in_nobodys_way_who_measures_nothing_of_ours(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")  # so that no long link can be laid
    monkeypatch.setattr(sys, "argv", ["bench", *words, "--loads", "long link"])
    assert main() == 0
    assert "- not measured: long link" in capsys.readouterr().out


def test_interrupted_it_ends_everything_and_writes_what_it_has(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    words = ["--quick", "--rounds", "100", "--peers", "edge-tunnel", "--loads", "echo", "--json", file]
    with subprocess.Popen(
        [*BENCH, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout
        assert run.stdout.readline().startswith("edge-tunnel: ")
        assert run.stdout.readline().startswith("[")
        while len(family := descendants([run.pid])) < 4:  # until the second round's programs run
            assert run.poll() is None
        run.send_signal(signal.SIGINT)
        output, errors = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "interrupted" in errors
    assert "**interrupted**" in output
    results = Results.read(file)
    assert not results.complete
    assert results.samples[0].figures["p50"] > 0
    assert descendants(family) == []
