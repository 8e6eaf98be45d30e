"""Lookups in threads: one a name, so many at most, whoever has given up."""

import ipaddress
import socket

import pytest
import trio
import trio.testing

from tunnel_agent import lookups as module
from tunnel_agent.lookups import MAX_ADDRESSES, MAX_LOOKUPS, Lookups


async def test_the_systems_own():
    found = await Lookups()("localhost")
    assert found
    assert all(address.is_loopback for address in found)


async def test_who_asks_for_the_same_name_joins(dns):
    lookups, found = Lookups(), []

    async def ask():
        found.append(await lookups("a.example"))

    dns.silent = True
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert len(lookups) == 1
        dns.answer("a.example", "127.0.0.7")
    assert found == [[ipaddress.ip_address("127.0.0.7")]] * 5
    assert dns.asked == ["a.example"]
    assert len(lookups) == 0
    await lookups("a.example")
    assert dns.asked == ["a.example"] * 2


async def test_threads_that_nobody_waits_for_count(dns):
    lookups = Lookups()
    dns.silent = True
    for number in [*range(MAX_LOOKUPS), 0, 1, MAX_LOOKUPS, MAX_LOOKUPS + 1]:
        with trio.move_on_after(0) as scope:
            await lookups(f"{number}.example")
        assert scope.cancelled_caught
    assert len(lookups) == MAX_LOOKUPS
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lookups, "one-more.example")
        await trio.testing.wait_all_tasks_blocked()
        assert "one-more.example" not in dns.asked
        dns.answer("one-more.example", "127.0.0.1")  # ... and the others fail
    assert dns.asked[-1] == "one-more.example"
    assert len(dns.asked) == MAX_LOOKUPS + 1


async def test_what_comes_late_is_told(dns):
    told = []
    lookups = Lookups(lambda host, found: told.append((host, list(map(str, found)))))
    dns.silent = True
    with trio.move_on_after(0):
        await lookups("a.example")
    dns.answer("a.example", *(f"127.0.0.{number}" for number in range(20)))
    await trio.testing.wait_all_tasks_blocked()
    ((host, found),) = told
    assert (host, len(found)) == ("a.example", MAX_ADDRESSES)


async def test_failures(dns, monkeypatch):
    lookups = Lookups()
    with pytest.raises(socket.gaierror, match="Name or service not known"):
        await lookups("nowhere.example")
    for answer in (lambda _host: [], lambda _host: 1 / 0, lambda host: host.decode("utf-16")):
        monkeypatch.setattr(module, "getaddrinfo", answer)
        with pytest.raises(socket.gaierror):
            await lookups("odd.example")
    with pytest.raises(socket.gaierror):
        await lookups("münchen.example")

    def full(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.lowlevel, "start_thread_soon", full)
    with pytest.raises(socket.gaierror, match="can't start new thread"):
        await lookups("a.example")
    assert len(lookups) == 0


def test_an_answer_after_the_end_harms_nobody(dns):
    dns.silent = True

    async def give_up():
        with trio.move_on_after(0):
            await Lookups()("a.example")

    trio.run(give_up)
    dns.answer("a.example", "127.0.0.1")
