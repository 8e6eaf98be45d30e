"""Listeners here, calls there: several at once, failing ones alone."""

import contextlib
import socket
import threading

import pytest
import trio

from tests.tunnelctl.connect_server import OK, echo, serving, unix_listener
from tests.tunnelctl.pairs import read_to_end
from tunnelctl.errors import NotReachableError, UsageError
from tunnelctl.forwarding import forward, open_listeners
from tunnelctl.ports import Forward
from tunnelctl.ways import LocalWay

ANY = [Forward(0, 80), Forward(0, 443)]


@pytest.fixture
def way(tmp_path) -> LocalWay:
    return LocalWay(tmp_path / "connect.sock")


@contextlib.asynccontextmanager
async def forwarding(way, forwards=ANY, addresses=("127.0.0.1",)):
    """The local addresses, while it forwards."""
    listeners = await open_listeners(way, forwards, addresses)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(forward, way, "edge-1", listeners)
        yield [listener.socket.getsockname()[:2] for listener, _ in listeners]
        nursery.cancel_scope.cancel()


def exchange(place, payload: bytes) -> bytes:
    with socket.create_connection(place, 10) as caller:
        caller.sendall(payload)
        caller.shutdown(socket.SHUT_WR)
        return read_to_end(caller)


async def test_each_port_leads_to_its_own(way, capsys) -> None:
    asked = []

    def behave(caller, target) -> None:
        asked.append(target)
        echo(caller, target)

    with serving(unix_listener(way.path), behave):
        async with forwarding(way) as places:
            for place in places:
                assert await trio.to_thread.run_sync(exchange, place, b"hi") == b"hi bye"
    assert asked == ["edge-1:80", "edge-1:443"]
    first, second = (port for _, port in places)
    assert capsys.readouterr().out.splitlines() == [
        f"Forwarding from 127.0.0.1:{first} -> 80",
        f"Forwarding from 127.0.0.1:{second} -> 443",
        f"Handling connection for {first}",
        f"Handling connection for {second}",
    ]


async def test_many_at_once(way) -> None:
    with serving(unix_listener(way.path), echo):
        async with forwarding(way) as places, trio.open_nursery() as nursery:
            results: list[bool] = []

            async def one(number: int) -> None:
                payload = str(number).encode() * 10_000
                answer = await trio.to_thread.run_sync(exchange, places[0], payload)
                results.append(answer == payload + b" bye")

            for number in range(100):
                nursery.start_soon(one, number)
    assert results == [True] * 100


async def test_a_call_that_fails_is_reset_and_told_and_the_next_one_works(way, capsys) -> None:
    away = threading.Event()
    away.set()

    def behave(caller, target) -> None:
        if away.is_set():
            caller.sendall(b"HTTP/1.1 503 away: edge-1 is not connected\r\ncontent-length: 0\r\n\r\n")
        else:
            echo(caller, target)

    with serving(unix_listener(way.path), behave):
        async with forwarding(way) as places:
            with pytest.raises(ConnectionResetError):
                await trio.to_thread.run_sync(exchange, places[0], b"hi")
            away.clear()
            assert await trio.to_thread.run_sync(exchange, places[0], b"hi") == b"hi bye"
    port = places[0][1]
    assert capsys.readouterr().err == f"{port} -> 80: edge-1:80: away: edge-1 is not connected\n"


async def test_what_is_open_is_reset_at_the_end(way) -> None:
    def behave(caller, _target) -> None:
        caller.sendall(OK + b"half")
        caller.recv(1)

    with serving(unix_listener(way.path), behave):
        async with forwarding(way) as places:
            caller = socket.create_connection(places[0], 10)
            assert await trio.to_thread.run_sync(caller.recv, 100) == b"half"
        with caller, pytest.raises(ConnectionResetError):
            caller.recv(1)


async def test_several_addresses_and_ipv6(way, capsys) -> None:
    with serving(unix_listener(way.path), echo):
        async with forwarding(way, [Forward(0, 80)], ["127.0.0.1", "::1"]) as places:
            assert [host for host, _ in places] == ["127.0.0.1", "::1"]
            for place in places:
                assert await trio.to_thread.run_sync(exchange, place, b"6") == b"6 bye"
    assert f"Forwarding from [::1]:{places[1][1]} -> 80" in capsys.readouterr().out


async def test_all_listeners_or_none(way) -> None:
    with serving(unix_listener(way.path), echo), socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as free_for_a_moment:
            free = free_for_a_moment.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port}: address already in use"):
            await open_listeners(way, [Forward(free, 80), Forward(port, 81)], ["127.0.0.1"])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", free))


async def test_without_a_server_nothing_listens(way) -> None:
    with pytest.raises(NotReachableError, match="no server listens at"):
        await open_listeners(way, ANY, ["127.0.0.1"])
