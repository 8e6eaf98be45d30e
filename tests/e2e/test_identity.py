"""Who is who: two machines with one certificate, and one with another's name."""

import shutil
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
    own.until(lambda: "edge-1" in _warnings(own), "server", "edge-2", timeout=20)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        assert curl_json(own.topology.cloud, f"http://{EDGE_1}:9081/")["machine"] == "edge-1"
        assert own.nodes()["edge-1"]["since"] == since, "the two take turns"
        time.sleep(0.5)


def _warnings(own: System) -> str:
    words = ("certificate", "clone", "another machine", "duplicate", "two machines")
    lines = own.log("server").splitlines()
    return "\n".join(line for line in lines if any(word in line.lower() for word in words))
