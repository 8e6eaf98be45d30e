import ipaddress

import pytest
import trio

from tunnel_agent import resolve
from tunnel_agent.resolve import Resolver, UnresolvableError


@pytest.fixture
def getaddrinfo(monkeypatch):
    """The threads' lookup, recorded; it answers what the test put in."""
    asked, answers = [], {}

    def lookup(host):
        asked.append(host)
        if host not in answers:
            raise resolve.socket.gaierror(-2, "Name or service not known")
        return answers[host]

    monkeypatch.setattr(resolve, "_getaddrinfo", lookup)
    lookup.asked, lookup.answers = asked, answers
    return lookup


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.168.2.143", ["192.168.2.143"]),
        ("::1", ["::1"]),
        ("::ffff:127.0.0.1", ["127.0.0.1"]),
        ("fe80::1%1", ["fe80::1%1"]),
        ("localhost", ["127.0.0.1", "::1"]),
        ("LOCALHOST.", ["127.0.0.1", "::1"]),
    ],
)
async def test_literals_and_localhost_ask_nobody(host, expected, getaddrinfo):
    assert list(map(str, await Resolver()(host))) == expected
    assert getaddrinfo.asked == []


async def test_names_are_looked_up_in_a_thread(getaddrinfo):
    getaddrinfo.answers[b"plc.example"] = [ipaddress.ip_address(f"10.0.0.{n}") for n in range(20)]
    found = await Resolver()("plc.example")
    assert len(found) == resolve.MAX_ADDRESSES


async def test_unknown_names(getaddrinfo):
    with pytest.raises(UnresolvableError, match=r"nowhere\.example: Name or service not known"):
        await Resolver()("nowhere.example")


async def test_names_beyond_ascii(getaddrinfo):
    with pytest.raises(UnresolvableError, match="xn--"):
        await Resolver()("münchen.example")


async def test_what_only_looks_like_an_address_is_resolved_and_so_checked():
    # inet_aton's spellings of 127.0.0.1: glibc takes them, and the allow-list sees what came out.
    for host in ("127.1", "2130706433", "0x7f.1"):
        assert list(map(str, await Resolver()(host))) == ["127.0.0.1"]


async def test_the_systems_own_lookup():
    found = resolve._getaddrinfo(b"localhost")
    assert all(address.is_loopback for address in found)
    assert found


async def test_dead_dns_is_cancellable_and_bounded(monkeypatch):
    import threading

    release, inside = threading.Event(), []

    def stuck(host):
        inside.append(host)
        release.wait(10)
        return []

    monkeypatch.setattr(resolve, "_getaddrinfo", stuck)
    resolver = Resolver()
    try:
        with trio.move_on_after(0.1) as scope:
            async with trio.open_nursery() as nursery:
                for _ in range(3 * resolve.MAX_LOOKUPS):
                    nursery.start_soon(resolver, "stuck.example")
        assert scope.cancelled_caught
        assert len(inside) == resolve.MAX_LOOKUPS
        assert await resolver("192.0.2.1") == [ipaddress.ip_address("192.0.2.1")]
    finally:
        release.set()
