"""A call to an edge that is away waits for it, by every way in; or fails in time with the cause."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e import tls
from tests.e2e.system import BIN, CLOUD, EDGE_1, System, curl

WAIT, PATIENCE = 30, 1
"""Seconds: longer than any agent needs to be back, and as short as a test wants it."""
LOCAL = "http://127.0.0.1"


@pytest.fixture(scope="module")
def own(deploy_for_module: Callable[..., System]) -> System:
    made = deploy_for_module()
    made.start_server(
        **{
            "http-proxy-ports": "9081",
            "https-proxy-ports": "9443",
            "secure-target-port": 9443,
            "listen": ["127.0.0.1:19081=edge-1:9081"],
            "connect-socket": made.directory / "connect.sock",
            "audit-log": made.directory / "audit.log",
            "callers.ci.nodes": ["*"],
            "callers.ci.ports": ["*"],
        }
    )
    edge = made.topology.edge(1)
    made.serve(edge, "http", 9081)
    tls.serve_pages(made, edge, 9443, tls.certificate(made.directory, "edge-1", "DNS:edge-1"))
    made.add_edge(edge)
    made.ctl("caller", "create", "ci", "--state-dir", made.state, "--out", made.directory / "ci")
    return made


@pytest.fixture
def forwarded(own: System) -> Iterator[subprocess.Popen[str]]:
    """tunnelctl port-forward, on port 8888 of the cloud."""
    argv = [BIN / "tunnelctl", "port-forward", "edge-1", "8888:9081"]
    command = own.topology.cloud.command([*argv, "--connect-socket", own.directory / "connect.sock"])
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Forwarding")
        yield process
        process.send_signal(signal.SIGINT)


def ways(own: System) -> dict[str, Callable[[], tuple[int, str]]]:
    """A call by each: curl's exit code and all it said, or tunnelctl's."""
    cloud, bundle, unix = own.topology.cloud, own.directory / "ci", own.directory / "connect.sock"
    proxy: list[str | Path] = [
        "--noproxy", "", "--proxytunnel", "--proxy", f"https://{CLOUD}:10262",
        "--proxy-cacert", bundle / "ca.crt", "--proxy-cert", bundle / "caller.crt",
        "--proxy-key", bundle / "caller.key",
    ]  # fmt: skip

    def by_curl(*words: str | Path) -> Callable[[], tuple[int, str]]:
        def call() -> tuple[int, str]:
            done = curl(cloud, "-v", "--max-time", str(WAIT), *words, timeout=WAIT + 5)
            return done.returncode, done.stdout + done.stderr

        return call

    def connect() -> tuple[int, str]:
        argv = [BIN / "tunnelctl", "connect", "edge-1", "9081", "--connect-socket", unix]
        done = cloud.run(argv, stdin="GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return done.returncode, done.stdout + done.stderr

    return {
        "redirected": by_curl(f"http://{EDGE_1}:9081/"),
        "host": by_curl("-H", "Host: edge-1:9081", f"{LOCAL}:10264/"),
        "fixed": by_curl(f"{LOCAL}:19081/"),
        "connect": by_curl(*proxy, "http://edge-1:9081/"),
        "port-forward": by_curl(f"{LOCAL}:8888/"),
        "tunnelctl-connect": connect,
        "server-name": by_curl("-k", "--connect-to", "::127.0.0.1:10263", "https://edge-1:9443/"),
    }


def leave(own: System) -> None:
    own.kill("edge-1")
    own.until(lambda: not own.nodes()["edge-1"]["connected"], "server")


def patient(own: System, seconds: float) -> None:
    before = own.log("server").count("limits.away-wait")
    own.configure(**{"limits.away-wait": seconds})
    own.hang_up()
    own.until(lambda: own.log("server").count("limits.away-wait") > before, "server")


@pytest.mark.usefixtures("forwarded")
def test_an_edge_that_comes_back_in_time_is_served_by_every_way(own: System) -> None:
    patient(own, WAIT)
    leave(own)
    served: dict[str, Future[tuple[int, str]]] = {}
    with ThreadPoolExecutor(len(ways(own))) as pool:
        served = {name: pool.submit(call) for name, call in ways(own).items()}
        time.sleep(1)  # real time, in which a server that does not wait has refused
        assert not [name for name, each in served.items() if each.done()]
        own.start_agent(own.topology.edge(1))
    for name, each in served.items():
        code, said = each.result()
        assert code == 0, f"{name}: {said}"
        assert '"machine": "edge-1"' in said or "s_server" in said, f"{name}: {said}"


def test_otherwise_it_fails_in_time_with_the_cause(own: System, forwarded: subprocess.Popen[str]) -> None:
    patient(own, PATIENCE)
    leave(own)
    audit = own.directory / "audit.log"
    before, began = len(audit.read_text().splitlines()), time.monotonic()
    with ThreadPoolExecutor(len(ways(own))) as pool:
        told = dict(zip(ways(own), pool.map(lambda call: call(), ways(own).values()), strict=True))
    assert PATIENCE < time.monotonic() - began < WAIT / 2
    cause = f"away: edge-1 is not connected and did not come back within {PATIENCE} s"
    for name, code in {
        "redirected": 56, "fixed": 56, "port-forward": 56, "host": 22, "connect": 22,
        "tunnelctl-connect": 1, "server-name": 35,
    }.items():  # fmt: skip
        assert told[name][0] == code, f"{name}: {told[name]}"
        if name in {"host", "connect", "tunnelctl-connect"}:
            assert cause in told[name][1]
    assert forwarded.stderr is not None
    assert forwarded.stderr.readline() == f"8888 -> 9081: edge-1:9081: {cause}\n"
    lines = own.until(lambda: len(new := audit.read_text().splitlines()[before:]) == len(told) and new)
    ends = [json.loads(line) for line in lines]
    assert {each["end"] for each in ends} == {"away"}
    assert {each["node"] for each in ends} == {"edge-1"}
    frontends = sorted(each["frontend"] for each in ends)
    assert frontends == ["connect", "connect", "connect", "fixed", "host", "insecure", "sni"]
