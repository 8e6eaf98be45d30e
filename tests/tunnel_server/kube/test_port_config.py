"""What the ConfigMap with the lists of ports comes to, beside the server's own lists."""

from ipaddress import ip_network

import pytest

from tunnel_server.config import ServerConfig
from tunnel_server.kube.port_config import PortConfig, port_lists, problems_in, read_port_config
from tunnel_server.kube.resources import NamespacedName

WHERE = NamespacedName("kube-system", "yurt-tunnel-server-cfg")
OWN = ServerConfig(
    edge_networks=(ip_network("192.168.0.0/16"),), http_proxy_ports="9081, own", localhost_proxy_ports="10266"
)


def test_what_is_kept() -> None:
    item = {
        "metadata": {"uid": "u"},
        "data": {"dnat-ports-pair": "9081=10264", "https-proxy-ports": "9443", "unknown": "9999"},
    }
    found = read_port_config(item)
    assert found == PortConfig("u", {"dnat-ports-pair": "9081=10264", "https-proxy-ports": "9443"})
    assert read_port_config({"metadata": {}, "data": None}).lists == {}


def test_without_it_the_servers_own_are_in_force() -> None:
    assert port_lists(OWN, None, WHERE) == OWN.port_lists()


def test_a_key_that_it_has_counts_instead() -> None:
    lists = port_lists(OWN, PortConfig("u", {"dnat-ports-pair": "9051=10264"}), WHERE)
    assert lists.captured == {9051: 10264, 9081: 10264}
    lists = port_lists(OWN, PortConfig("u", {"http-proxy-ports": ""}), WHERE)
    assert lists.captured == {}
    assert lists.localhost == {10266}


def test_a_bad_entry_is_named_where_it_stands_and_the_others_count() -> None:
    found = PortConfig("u", {"https-proxy-ports": "9443, 70000", "localhost-proxy-ports": "x"})
    lists = port_lists(OWN, found, WHERE)
    assert lists.captured == {9443: 10263, 9081: 10264}
    place = "ConfigMap kube-system/yurt-tunnel-server-cfg: "
    assert [each.partition('"')[0] for each in lists.problems] == [
        f"{place}https-proxy-ports: ",
        "http-proxy-ports: ",
        f"{place}localhost-proxy-ports: ",
    ]
    assert [each.partition('"')[0] for each in problems_in(lists, WHERE)] == [
        "https-proxy-ports: ",
        "localhost-proxy-ports: ",
    ]


@pytest.mark.parametrize("ports", [(1, 2), (20263, 20264)])
def test_pairs_name_this_servers_listeners(ports: tuple[int, int]) -> None:
    config = ServerConfig(secure_port=ports[0], insecure_port=ports[1])
    lists = port_lists(config, PortConfig("u", {"dnat-ports-pair": f"9081={ports[1]}"}), WHERE)
    assert lists.captured == {9081: ports[1]}
