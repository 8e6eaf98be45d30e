"""The clock of an agent's machine jumps, or begins in 1970; or the machine stands still for a while.

It takes some 20 s: real programs wait by a clock that no test can hurry.
"""

import signal
import time
from collections.abc import Callable

import pytest

from tests.e2e.clock import Clock, missing_clock
from tests.e2e.network import abort
from tests.e2e.shortage import Pause, Visit, busy, said
from tests.e2e.system import EDGE_1, EDGE_2, System

needs_clock = pytest.mark.skipif(bool(missing_clock()), reason=missing_clock())

LOOKS = 2.0
"""Seconds in which an agent that looks each second does so again."""


@pytest.fixture(scope="module")
def own(deploy_for_module: Callable[..., System]) -> System:
    made = deploy_for_module()
    made.start_server(http_proxy_ports="9081")
    one = made.topology.edge(1)
    made.serve(one, "http", 9081)
    assert made.join(one, made.join_line("edge-1", EDGE_1)).returncode == 0
    return made


@needs_clock
def test_a_clock_that_jumps_far_forward_and_back(own: System) -> None:
    """What stands goes on; what is judged by that clock says what it shows; and it is right again."""
    clock, edge, cloud = Clock(own.directory / "clock"), own.topology.edge(1), own.topology.cloud
    agent = own.start_agent(edge, env=clock.environment, refresh_interval=1, backoff_max=1)
    own.wait_ready("edge-1")

    def links() -> bool:
        return "edge-1" in own.connected()

    with Visit(cloud) as visit, Pause(cloud) as download:
        for shift, why in (
            ("+20y", "the server's certificate has expired; the clock of this machine says 20"),
            ("-30y", "the server's certificate is not valid yet; the clock of this machine says 199"),
        ):
            since = own.nodes()["edge-1"]["since"]
            clock.set(shift)
            own.until(lambda why=why: said(own, "edge-1", "could not be looked after", why), "edge-1")
            visit.works()
            assert own.nodes()["edge-1"]["since"] == since, "a link that stands is no matter of that clock"
            abort(edge, 10262)
            own.until(lambda why=why: len(said(own, "edge-1", why)) == 2, "edge-1")
            assert busy(agent.pid, LOOKS) < 0.2
            assert not links()
            assert len(said(own, "edge-1", why)) == 2, "once each, of the certificate and of the link"
            clock.set("+0")
            own.until(links, "edge-1")
            visit.works()
        # Two thirds of its life have gone by, as it seems; and what it is given is as old at once.
        clock.set("+70d")
        own.until(lambda: said(own, "server", "has a new certificate"), "server", "edge-1")
        time.sleep(LOOKS)
        assert len(said(own, "server", "has a new certificate")) <= LOOKS + 2
        clock.set("+0")
        visit.works()
        download.finish()
    assert "Traceback" not in own.log("edge-1")
    own.kill("edge-1", signal.SIGTERM)


@needs_clock
def test_a_machine_without_a_clock_begins_in_1970(own: System) -> None:
    clock, edge = Clock(own.directory / "battery", "@1970-01-01 00:00:20"), own.topology.edge(2)
    words = own.join_line("edge-2", EDGE_2)
    refused = own.join(edge, words, env=clock.environment)
    assert refused.returncode != 0
    assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
    assert "the clock of this machine says 1970-01-01" in refused.stderr
    clock.set("+0")
    assert own.join(edge, words, env=clock.environment).returncode == 0
    clock.set("@1970-01-01 00:00:20")
    agent = own.start_agent(edge, env=clock.environment, backoff_max=1)
    own.until(lambda: said(own, "edge-2", "not valid yet", "1970-01-01", "NTP"), "edge-2")
    assert busy(agent.pid, 1) < 0.2
    assert "edge-2" not in own.connected()
    clock.set("+0")
    own.until(lambda: "edge-2" in own.connected(), "edge-2")
    assert "Traceback" not in own.log("edge-2")


@pytest.mark.parametrize("seconds", [2, pytest.param(25, marks=[pytest.mark.long, pytest.mark.timeout(200)])])
def test_a_machine_that_stands_still(own: System, seconds: float) -> None:
    """As a virtual one that is suspended; for longer than a link may be silent, too. Each end in turn."""
    cloud = own.topology.cloud
    own.start_agent(own.topology.edge(1), backoff_max=1)
    own.wait_ready("edge-1")
    with Visit(cloud, timeout=60) as visit, Pause(cloud) as download:
        for name in ("edge-1", "server"):
            process = own.processes[name]
            process.send_signal(signal.SIGSTOP)
            try:
                visit.ask()
                time.sleep(seconds)
            finally:
                process.send_signal(signal.SIGCONT)
            visit.answered()
            own.until(lambda: "edge-1" in own.connected(), "edge-1", "server")
            assert busy(process.pid, 1) < 0.2
        download.finish()
    for name in ("edge-1", "server"):
        assert "Traceback" not in own.log(name)
    own.kill("edge-1", signal.SIGTERM)
