import ipaddress
import socket
from pathlib import Path

import pytest
import trio

from tunnel_agent.tcp import connect_tcp

V4, V6 = ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("address", [V4, V6])
async def test_connects(address):
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with (
        socket.create_server((str(address), 0), family=family) as listener,
        await connect_tcp(address, listener.getsockname()[1]) as sock,
    ):
        assert sock.getpeername()[:2] == listener.getsockname()[:2]
        assert not sock.getblocking()
        assert not sock.get_inheritable()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_refused():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        before = open_fds()
        with pytest.raises(ConnectionRefusedError):
            await connect_tcp(V4, bound.getsockname()[1])
        assert open_fds() == before


async def test_cancelled_leaves_nothing():
    # A listener whose queue is full answers no SYN: as good as a black hole, without leaving the loopback.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            before = open_fds()
            with trio.move_on_after(0.05) as scope:
                await connect_tcp(V4, port)
            assert scope.cancelled_caught
            assert open_fds() == before


async def test_a_connection_to_oneself_is_refused():
    """TCP's simultaneous open: a socket that connects to the very port it was given."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = socket.socket

    class Bound(own):
        def connect_ex(self, address):
            if not self.getsockname()[1]:
                self.bind(("127.0.0.1", port))
            return super().connect_ex(address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", Bound)
        with pytest.raises(ConnectionRefusedError):
            await connect_tcp(V4, port)


async def test_an_unknown_zone_is_an_error():
    with pytest.raises(OSError, match=r"No such device|no interface"):
        await connect_tcp(ipaddress.ip_address("fe80::1%no-such-interface"), 80)
