import pytest

from tunnel_agent.endpoint import Endpoint


@pytest.mark.parametrize(
    ("text", "host", "port", "written"),
    [
        ("tunnel.example", "tunnel.example", 10262, "tunnel.example:10262"),
        ("tunnel.example:443", "tunnel.example", 443, "tunnel.example:443"),
        ("192.0.2.1:31008", "192.0.2.1", 31008, "192.0.2.1:31008"),
        ("[2001:db8::1]:443", "2001:db8::1", 443, "[2001:db8::1]:443"),
        ("2001:db8::1", "2001:db8::1", 10262, "[2001:db8::1]:10262"),
    ],
)
def test_endpoints(text, host, port, written):
    endpoint = Endpoint.parse(text)
    assert (endpoint.host, endpoint.port) == (host, port)
    assert str(endpoint) == written
    assert Endpoint.parse(written) == endpoint


@pytest.mark.parametrize("text", ["", ":443", "host:", "host:0", "host:70000", "https://host:443", "a b:1"])
def test_malformed_endpoints(text):
    with pytest.raises(ValueError, match=r"."):
        Endpoint.parse(text)
