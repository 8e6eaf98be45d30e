"""A factory whose firewall lets out nothing but its HTTP proxy."""

from collections.abc import Callable

import pytest

from tests.e2e import services
from tests.e2e.network import dropping
from tests.e2e.system import EDGE_1, System, curl_json

PROXY = f"http://{services.PROXY_USER}@192.168.2.144:3128"


@pytest.mark.parametrize("how", ["setting", "environment"])
def test_join_and_links_go_through_the_proxy(deploy: Callable[..., System], how: str) -> None:
    own = deploy()
    own.start_server()
    edge, proxy = own.topology.edge(1), own.topology.edge(2)
    own.serve(proxy, "proxy", 3128)
    own.serve(edge, "http", 9081)
    own.map_port("9081=10264")
    with dropping(own.topology.host("nat"), f'oifname "internet" ip saddr {EDGE_1}'):
        words = own.join_line("edge-1", EDGE_1)
        through = ["--proxy", PROXY] if how == "setting" else []
        env = {} if how == "setting" else {"HTTPS_PROXY": PROXY}
        joined = own.join(edge, words, *through, env=env)
        assert joined.returncode == 0, joined.stderr
        own.start_agent(edge, env=env)  # what joining was told, the agent knows
        own.wait_ready("edge-1")
        assert curl_json(own.topology.cloud, f"http://{EDGE_1}:9081/")["machine"] == "edge-1"
    assert "CONNECT 203.0.113.10:10262" in own.log("proxy-edge-2-3128")
    assert "secret" not in own.log("edge-1")
