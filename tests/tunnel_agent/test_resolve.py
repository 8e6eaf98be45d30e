import ipaddress

import pytest
import trio

from tunnel_agent.lookups import MAX_ADDRESSES, MAX_LOOKUPS
from tunnel_agent.resolve import Resolver, UnresolvableError


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
async def test_literals_and_localhost_ask_nobody(host, expected, dns):
    assert list(map(str, await Resolver()(host))) == expected
    assert dns.asked == []


async def test_names_are_looked_up_in_a_thread(dns):
    dns.answer("plc.example", *(f"127.0.0.{n}" for n in range(20)))
    found = await Resolver()("plc.example")
    assert len(found) == MAX_ADDRESSES


async def test_unknown_names(dns):
    with pytest.raises(UnresolvableError, match=r"nowhere\.example: Name or service not known"):
        await Resolver()("nowhere.example")


async def test_a_name_is_dialled_where_it_is_not_where_it_was(dns):
    resolver = Resolver()
    dns.answer("plc.example", "127.0.0.7")
    await resolver("plc.example")
    dns.answers.clear()
    with pytest.raises(UnresolvableError):
        await resolver("plc.example")


async def test_names_beyond_ascii(dns):
    with pytest.raises(UnresolvableError, match="xn--"):
        await Resolver()("münchen.example")


async def test_what_only_looks_like_an_address_is_resolved_and_so_checked():
    # inet_aton's spellings of 127.0.0.1: glibc takes them, and the allow-list sees what came out.
    for host in ("127.1", "2130706433", "0x7f.1"):
        assert list(map(str, await Resolver()(host))) == ["127.0.0.1"]


async def test_dead_dns_is_cancellable_and_bounded(dns):
    dns.silent = True
    resolver = Resolver()
    with trio.move_on_after(0.1) as scope:
        async with trio.open_nursery() as nursery:
            for number in range(3 * MAX_LOOKUPS):
                nursery.start_soon(resolver, f"stuck-{number % 20}.example")
    assert scope.cancelled_caught
    assert len(dns.asked) == len(resolver.lookups) == MAX_LOOKUPS
    assert await resolver("127.0.0.9") == [ipaddress.ip_address("127.0.0.9")]
