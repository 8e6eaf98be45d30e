"""What a server's certificate says for the addresses that agents dial."""

from ipaddress import ip_address

from tunnel_server.endpoints import ServerAddress
from tunnel_server.kube.own_state import server_certificate_names


def names(*texts):
    return server_certificate_names(map(ServerAddress.parse, texts), "edge-tunnel")


def test_addresses_and_names_apart_each_once():
    found = names("tunnel.example.org:443", "203.0.113.10", "[2001:db8::1]:10262", "203.0.113.10:443")
    assert found.addresses == (ip_address("203.0.113.10"), ip_address("2001:db8::1"))
    service = "tunnel-server.edge-tunnel.svc"
    assert found.dns_names == ("tunnel.example.org", service, f"{service}.cluster.local")


def test_the_service_itself_is_named_once():
    service = "tunnel-server.edge-tunnel.svc"
    assert names(service).dns_names == (service, f"{service}.cluster.local")


def test_none():
    assert not names()
