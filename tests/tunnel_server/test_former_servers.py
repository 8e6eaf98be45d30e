"""Servers that were replaced: what their successor knows of them, and what it tells them."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.tunnel_server.test_metrics import samples
from tunnel_server import former_servers
from tunnel_server.admin.views import PredecessorView
from tunnel_server.former_servers import FormerServer, FormerServers, report
from tunnel_server.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable


def pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    one, other = (trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in socket.socketpair())
    return one, other


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(former_servers, "_EVERY", 0.01)


async def _until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():
            await trio.sleep(0.01)


@pytest.mark.usefixtures("often")
async def test_each_is_known_until_it_ends_and_told_of_a_log_that_was_moved() -> None:
    servers, calls, reopened, life = FormerServers(), [3], trio.Event(), trio.CancelScope()
    mine, its = pair()

    async def run() -> None:
        with life:
            await report(its, lambda: calls[0], reopened.set)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(servers.watch, FormerServer(7, "1.0", mine))
        nursery.start_soon(run)
        await _until(lambda: servers.views() == (PredecessorView(pid=7, version="1.0", calls_open=3),))
        calls[0] = 12
        await _until(lambda: servers.views()[0].calls_open == 12)
        servers.count(metrics := Metrics())
        counted = samples(metrics)
        assert counted["edge_tunnel_predecessors",] == 1
        assert counted["edge_tunnel_predecessors_calls_open",] == 12
        await servers.reopen_logs()
        with trio.fail_after(5):
            await reopened.wait()
        life.cancel()
        await _until(lambda: servers.views() == ())
        servers.count(metrics)
        assert samples(metrics)["edge_tunnel_predecessors",] == 0


async def test_who_takes_over_from_this_one_is_told_what_this_one_was() -> None:
    servers, taking = FormerServers(), FormerServers()
    mine, its = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(servers.watch, FormerServer(7, "1.0", mine))
        await trio.testing.wait_all_tasks_blocked()
        (given,) = servers
        copy = socket.socket(fileno=os.dup(given.descriptor))
        servers.give_away()
        await trio.testing.wait_all_tasks_blocked()
        assert list(servers) == []
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(copy))
        nursery.start_soon(taking.watch, FormerServer(7, "1.0", stream))
        await its.send_all(b"calls 2\n")
        await _until(lambda: taking.views() == (PredecessorView(pid=7, version="1.0", calls_open=2),))
        await its.aclose()


@pytest.mark.usefixtures("often")
async def test_a_successor_that_goes_ends_the_reports() -> None:
    mine, its = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(report, its, lambda: 1, lambda: None)
        assert bytes(await mine.receive_some()).startswith(b"calls 1\n")
        await mine.aclose()
        with trio.fail_after(5):
            while nursery.child_tasks:
                await trio.sleep(0.01)


@pytest.mark.parametrize(
    ("said", "count"),
    [
        (b"gone\n", 4), (b"gone\ncalls 12\n", 12), (b"calls 1\ncalls 2\n", 2), (b"6\n", 4),
        (b"6\ncalls 5\n", 5), (b"calls \n", 4), (b"calls x\n", 4), (b"calls -1\n", 4),
    ],
)  # fmt: skip
def test_whatever_is_said(said: bytes, count: int) -> None:
    assert former_servers._last_count(said, 4) == count
