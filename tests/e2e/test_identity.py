"""Who is who: two machines with one certificate, and one that comes in another's place."""

import shutil
import signal
import time
from collections.abc import Callable

from tests.e2e.system import EDGE_1, System, curl_json


def test_a_cloned_machine_is_named_and_nothing_flaps(deploy: Callable[..., System]) -> None:
    own = deploy()
    own.start_server()
    original, clone = own.topology.edge(1), own.topology.edge(2)
    own.serve(original, "http", 9081)
    own.serve(clone, "http", 9081)
    own.add_edge(original)
    own.map_port("9081=10264")
    since = own.nodes()["edge-1"]["since"]
    shutil.copytree(own.agent_state(original), own.agent_state(clone))
    own.start_agent(clone)
    own.until(lambda: "edge-1" in _warnings(own), "server", "edge-2")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        assert curl_json(own.topology.cloud, f"http://{EDGE_1}:9081/")["machine"] == "edge-1"
        assert own.nodes()["edge-1"]["since"] == since, "the two take turns"
        time.sleep(0.5)


def _warnings(own: System) -> str:
    words = ("certificate", "clone", "another machine", "duplicate", "two machines")
    lines = own.log("server").splitlines()
    return "\n".join(line for line in lines if any(word in line.lower() for word in words))


def test_another_machine_comes_in_the_place_of_one_that_is_lost(deploy: Callable[..., System]) -> None:
    """By revocation, and by being forgotten: its address answers as soon as the successor is there."""
    own = deploy()
    own.start_server()
    edge = own.topology.edge(1)
    own.serve(edge, "http", 9081)
    own.map_port("9081=10264")
    own.add_edge(edge)

    def succeed(name: str) -> None:
        own.agent_state(edge).rename(own.directory / f"lost-before-{name}")
        done = own.join(edge, own.join_line(name, EDGE_1))
        assert done.returncode == 0, done.stderr
        own.start_agent(edge)
        own.wait_ready(name)
        assert curl_json(own.topology.cloud, f"http://{EDGE_1}:9081/")["machine"] == "edge-1"

    def captured() -> bool:
        return EDGE_1 in own.topology.cloud.run(["nft", "list", "ruleset"]).stdout

    assert captured()
    own.ctl("revoke", "edge-1", "--state-dir", own.state)
    own.within(3, lambda: not captured(), "server")
    own.kill("edge-1")
    assert "was revoked at" in own.nodes()["edge-1"]["problem"]
    succeed("edge-8")
    # The old one stays out over a restart.
    own.kill("server", signal.SIGTERM)
    own.start_server()
    own.wait_ready("edge-8")
    assert curl_json(own.topology.cloud, f"http://{EDGE_1}:9081/")["machine"] == "edge-1"
    refused = own.try_ctl("nodes", "forget", "edge-8")
    assert refused.returncode == 4
    assert "edge-8 is linked from" in refused.stderr
    own.kill("edge-1")
    own.until(lambda: "edge-8" not in own.connected(), "server")
    assert f"edge-8 is forgotten: {EDGE_1} may be another's" in own.ctl("nodes", "forget", "edge-8")
    own.within(3, lambda: not captured(), "server")
    assert "edge-8" not in own.nodes()
    succeed("edge-9")
    assert "is claimed by" not in own.log("server")
