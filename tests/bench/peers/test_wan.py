"""What crosses the WAN: everything, by the way that the stage gives, and unreadable if the peer says so."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from bench.peers import bore
from bench.peers.peer import Absent, Peer
from bench.peers.registry import peers
from bench.routes import Route
from bench.stage import open_stage

TAPPED = Route("tapped", "", server="127.0.0.1", dial="127.0.0.2")
INSTALLED = [
    pytest.param(peer, id=peer.name)
    for peer in peers()
    if peer.name != "direct" and not isinstance(peer.available(), Absent)
]


@contextmanager
def tap(listen: tuple[str, int], onward: tuple[str, int]) -> Iterator[bytearray]:
    """A relay from one address to another; what it carried, both ways. It ends when both its ends have."""
    seen = bytearray()
    threads: list[threading.Thread] = []

    def start(work: Callable[..., None], *arguments: socket.socket) -> None:
        threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        threads[-1].start()

    def carry(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                seen.extend(data)
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                here = sockets.enter_context(listener.accept()[0])
                there = sockets.enter_context(socket.create_connection(onward))
                start(carry, here, there)
                start(carry, there, here)

    with ExitStack() as sockets, socket.create_server(listen) as listener:
        start(accept)
        yield seen
        listener.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(5)


@pytest.mark.parametrize("peer", INSTALLED)
def test_all_goes_by_the_stages_way_and_is_encrypted_as_the_table_says(peer: Peer) -> None:
    marker = os.urandom(32)
    with open_stage(TAPPED) as stage:
        port = bore.CONTROL_PORT if peer.name == "bore" else stage.wan_server[1]
        with tap((TAPPED.dial, port), (TAPPED.server, port)) as seen, peer.start(stage) as running:
            with socket.create_connection(running.entrance, timeout=10) as caller:
                caller.sendall(b"e" + marker)
                assert caller.recv(len(marker), socket.MSG_WAITALL) == marker
            assert len(seen) > 2 * len(marker)
            assert (marker in seen) is not peer.encrypted
