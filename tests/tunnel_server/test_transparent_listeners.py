"""The transparent listeners open and close with the configuration; loopback stays."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from tunnel_daemon.program import ProgramError
from tunnel_server.transparent_listeners import TransparentListeners, close

LOOPBACK = {"127.0.0.1": ""}
MORE = {**LOOPBACK, "127.0.0.2": "direct-address"}


class Frontend:
    """Closes whom it accepts."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def serve(self, listener: trio.SocketListener) -> None:
        async with listener:
            while True:
                try:
                    await (await listener.accept()).aclose()
                except trio.ClosedResourceError:
                    return


@asynccontextmanager
async def listening(port: int = 0) -> AsyncIterator[TransparentListeners]:
    frontends = [(Frontend("secure"), 0), (Frontend("insecure"), port)]
    async with trio.open_nursery() as nursery:
        made = TransparentListeners(nursery, frontends)  # type: ignore[arg-type]
        made.serve(LOOPBACK, await made.open(LOOPBACK))
        yield made
        nursery.cancel_scope.cancel()


def places(listeners: TransparentListeners) -> list[str]:
    return [view.address.rpartition(":")[0] for view in listeners.views()]


async def test_an_address_comes_at_once_and_goes_when_nobody_can_be_on_the_way_to_it_any_more(
    autojump_clock: MockClock,
) -> None:
    async with listening() as listeners:
        kept = {view.address for view in listeners.views()}
        listeners.serve(MORE, await listeners.open(MORE))
        assert places(listeners) == ["127.0.0.1"] * 2 + ["127.0.0.2"] * 2
        port = int(listeners.views()[-1].address.rpartition(":")[2])
        listeners.serve(LOOPBACK, await listeners.open(LOOPBACK))
        await trio.sleep(1)
        async with await trio.open_tcp_stream("127.0.0.2", port) as late:
            assert await late.receive_some() == b""
        await trio.sleep(1.5)
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream("127.0.0.2", port)
        assert {view.address for view in listeners.views()} == kept


async def test_an_address_that_is_back_in_time_was_never_closed(autojump_clock: MockClock) -> None:
    async with listening() as listeners:
        listeners.serve(MORE, await listeners.open(MORE))
        before = listeners.views()
        listeners.serve(LOOPBACK, {})
        assert await listeners.open(MORE) == {}
        listeners.serve(MORE, {})
        await trio.sleep(5)
        assert listeners.views() == before


@pytest.mark.parametrize(
    ("host", "says"),
    [
        (
            "127.0.0.3",
            r"^direct-address: can't listen on 127\.0\.0\.3:\d+: this program has the port already",
        ),
        ("fd77:77::1", r"^direct-address: can't listen on \[fd77:77::1\]:0: this machine does not have that"),
    ],
)
async def test_all_or_none_and_the_setting_is_named(host: str, says: str) -> None:
    with socket.create_server(("127.0.0.3", 0)) as taken:
        async with listening(taken.getsockname()[1]) as listeners:
            before = listeners.views()
            with pytest.raises(ProgramError, match=says):
                await listeners.open({**MORE, host: "direct-address"})
            assert listeners.views() == before
            opened = await listeners.open(MORE)  # nothing was left open that would be in the way
            assert {host for host, _name in opened} == {"127.0.0.2"}
            close(opened)
