"""Listening sockets, or the reason why not."""

from __future__ import annotations

import sys

import pytest
import trio

from tunnel_daemon.listeners import open_tcp_listeners
from tunnel_daemon.program import ProgramError


async def test_each_address_is_listened_on_and_families_do_not_clash() -> None:
    [four] = await open_tcp_listeners(["0.0.0.0"], 0, setting="p")
    port = four.socket.getsockname()[1]
    [six] = await open_tcp_listeners(["::"], port, setting="p")
    for address in ("127.0.0.1", "::1"):
        await (await trio.open_tcp_stream(address, port)).aclose()
    await four.aclose()
    await six.aclose()


async def test_a_taken_port_is_named_and_no_listener_is_left() -> None:
    [taken] = await open_tcp_listeners(["127.0.0.2"], 0, setting="p")
    port = taken.socket.getsockname()[1]
    with pytest.raises(
        ProgramError, match=rf"can't listen on 127\.0\.0\.2:{port}: .* set another tunnel-port"
    ):
        await open_tcp_listeners(["127.0.0.1", "127.0.0.2"], port, setting="tunnel-port")
    with pytest.raises(OSError, match="all attempts"):
        await trio.open_tcp_stream("127.0.0.1", port)
    await taken.aclose()


async def test_by_a_program_that_was_replaced_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tunnel_daemon.port_owner", None)
    [taken] = await open_tcp_listeners(["127.0.0.2"], 0, setting="p")
    port = taken.socket.getsockname()[1]
    with pytest.raises(ProgramError) as caught:
        await open_tcp_listeners(["127.0.0.2"], port, setting="p")
    said = "another program has the port; stop it, or set another p"
    assert str(caught.value) == f"can't listen on 127.0.0.2:{port}: {said}"
    await taken.aclose()


@pytest.mark.parametrize(
    ("host", "place"), [("192.0.2.77", "192.0.2.77:0"), ("2001:db8::7", "[2001:db8::7]:0")]
)
async def test_an_address_that_is_not_ours(host: str, place: str) -> None:
    with pytest.raises(ProgramError) as caught:
        await open_tcp_listeners([host], 0, setting="p")
    assert (
        str(caught.value)
        == f"can't listen on {place}: this machine does not have that address; see `ip address`"
    )
