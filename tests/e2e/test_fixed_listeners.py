"""A server without any privilege: fixed listeners lead to a node's port, and nothing is captured."""

from collections.abc import Callable

from tests.e2e.system import EDGE_1, RESET, System, curl, curl_json


def test_a_listener_leads_to_its_nodes_port(deploy: Callable[..., System]) -> None:
    own = deploy()
    own.start_server(intercept=False, listen=["127.0.0.1:19081=edge-1:9081", "127.0.0.1:19082=edge-2:9081"])
    cloud, edge = own.topology.cloud, own.topology.edge(1)
    own.serve(edge, "http", 9081)
    own.add_edge(edge)
    assert curl_json(cloud, "http://127.0.0.1:19081/")["machine"] == "edge-1"
    # edge-2 never joined
    assert curl(cloud, "http://127.0.0.1:19082/").returncode in RESET
    assert cloud.run(["nft", "list", "ruleset"]).stdout == ""
    assert curl(cloud, "--max-time", "20", f"http://{EDGE_1}:9081/").returncode == 7
