import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel_agent.endpoint import Endpoint
from tunnel_agent.proxy import Proxy, ProxyChoice, bypasses, choose_proxy

SERVER = Endpoint("tunnel.example", 10262)
PROXY = Proxy.parse("http://user:pa%3Ass%40@proxy.example:3128")


def test_parsing():
    assert str(PROXY) == "http://proxy.example:3128"
    assert PROXY.authorization == "Basic dXNlcjpwYTpzc0A="
    assert Proxy.parse("http://proxy.example").endpoint == Endpoint("proxy.example", 80)
    assert Proxy.parse("proxy.example:3128").endpoint.port == 3128
    assert Proxy.parse("http://[2001:db8::1]:3128/").endpoint == Endpoint("2001:db8::1", 3128)


def test_the_password_is_never_printed():
    for text in (str(PROXY), repr(PROXY)):
        assert "pa:ss@" not in text
        assert "dXNl" not in text


@pytest.mark.parametrize(
    "text", ["https://secret@p:1", "socks5://secret@p:1", "http://secret:x@", "http://u:secret@h:99999", "http://u:secret@h/x",
             "http://u:secret@h?x", "http://u:secret@[::1"],
)  # fmt: skip
def test_what_is_no_proxy_is_refused_without_its_password(text):
    with pytest.raises(ValueError, match=r".") as caught:
        ProxyChoice.parse(text)
    assert "secret" not in str(caught.value)


@given(st.text(max_size=60))
def test_parsing_never_fails_otherwise(text):
    try:
        ProxyChoice.parse(text)
    except ValueError:
        pass


def test_the_setting_wins_then_the_environment():
    environment = {"HTTPS_PROXY": "http://env.example:1"}
    assert choose_proxy("", {}, SERVER) is None
    assert choose_proxy("none", environment, SERVER) is None
    assert str(choose_proxy("http://set.example:2", environment, SERVER)) == "http://set.example:2"
    assert str(choose_proxy("", environment, SERVER)) == "http://env.example:1"
    both = {**environment, "https_proxy": "http://lower.example:3"}
    assert str(choose_proxy("", both, SERVER)) == "http://lower.example:3"
    assert choose_proxy("", {**environment, "NO_PROXY": ".example"}, SERVER) is None
    assert choose_proxy("http://set.example:2", {"NO_PROXY": "*"}, SERVER) is not None
    with pytest.raises(ValueError, match="HTTPS_PROXY"):
        choose_proxy("", {"HTTPS_PROXY": "socks5://x:1"}, SERVER)


@pytest.mark.parametrize(
    ("no_proxy", "host", "expected"),
    [
        ("", "tunnel.example", False),
        ("*", "tunnel.example", True),
        ("tunnel.example", "tunnel.example", True),
        ("TUNNEL.example.", "other.example", False),
        ("example", "tunnel.example", True),
        (".example", "tunnel.example", True),
        ("*.example", "tunnel.example", True),
        ("nel.example", "tunnel.example", False),
        ("a, b ,tunnel.example", "tunnel.example", True),
        ("tunnel.example:443", "tunnel.example", False),
        ("tunnel.example:10262", "tunnel.example", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.30", False),
        ("[2001:db8::1]:10262", "2001:db8::1", True),
        ("2001:db8::/32", "2001:db8::1", True),
        ("10.0.0.0/8", "tunnel.example", False),
        (",, ,", "tunnel.example", False),
    ],
)
def test_no_proxy(no_proxy, host, expected):
    assert bypasses(no_proxy, Endpoint(host, 10262)) is expected
