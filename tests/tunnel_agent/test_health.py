import socket
import sys

import pytest
import trio
import trio.testing

from tunnel_agent.health import serve_health
from tunnel_agent.status import AgentStatus


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def test_over_http():
    port = free_port()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_health, AgentStatus("1"), "127.0.0.1", port)
        await trio.testing.wait_all_tasks_blocked()
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 OK\r\n")
        nursery.cancel_scope.cancel()


async def test_an_agent_whose_program_was_replaced_goes_on_without(monkeypatch, caplog):
    port = free_port()
    monkeypatch.setitem(sys.modules, "tunnel_agent.health_pages", None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_health, AgentStatus("1"), "127.0.0.1", port)
        await trio.testing.wait_all_tasks_blocked()
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            with pytest.raises(trio.BrokenResourceError), trio.fail_after(5):
                await stream.receive_some()
    (message,) = caplog.messages
    assert "Restart it" in message


async def test_a_taken_port_costs_one_warning(caplog):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with trio.fail_after(5):
            await serve_health(AgentStatus("1"), "127.0.0.1", port)
    (message,) = caplog.messages
    assert f"127.0.0.1:{port}" in message
    assert "health-port" in message


async def test_port_zero_serves_nothing(caplog):
    with trio.fail_after(5):
        await serve_health(AgentStatus("1"), "127.0.0.1", 0)
    assert not caplog.messages
