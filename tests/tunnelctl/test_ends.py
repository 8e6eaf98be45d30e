"""Ends and resets are told apart, on every kind of end."""

import os
import socket
import ssl
import threading

import pytest
import trio

from tests.tunnelctl.connect_server import Pki
from tests.tunnelctl.pairs import read_to_end, tcp_pair, unix_pair
from tunnel_wire.sockets import close_with_reset, prepare
from tunnel_wire.tls import TlsPump, handshake
from tunnelctl.ends import EndFailed, SocketEnd, StdioEnd, TlsEnd
from tunnelctl.ways import load_identity

both = pytest.mark.parametrize("pair", [tcp_pair, unix_pair])


@both
async def test_half_close_both_ways(pair) -> None:
    mine, theirs = pair()
    with mine:
        end = SocketEnd(theirs, ahead=b"before ")
        mine.sendall(b"hello")
        mine.shutdown(socket.SHUT_WR)
        assert [await end.receive(), await end.receive(), await end.receive()] == [b"before ", b"hello", b""]
        await end.send(b"still open")
        await end.finish()
        assert read_to_end(mine) == b"still open"
        end.close(reset=False)


async def _receive_all(end) -> bytes:
    received = b""
    while data := await end.receive():
        received += data
    return received


async def test_a_tcp_reset_is_no_end() -> None:
    mine, theirs = tcp_pair()
    end = SocketEnd(theirs)
    mine.sendall(b"part")
    close_with_reset(mine)
    with pytest.raises(EndFailed):
        await _receive_all(end)
    end.close(reset=True)


async def test_an_error_that_the_sender_took_is_no_end_to_the_receiver() -> None:
    mine, theirs = tcp_pair()
    end = SocketEnd(theirs)
    close_with_reset(mine)
    await trio.lowlevel.wait_readable(theirs)
    with pytest.raises(EndFailed):
        await end.send(b"x")
    with pytest.raises(EndFailed):
        await end.receive()
    end.close(reset=True)


async def test_a_unix_socket_closed_whole_is_a_reset_before_our_end_and_an_end_after_it() -> None:
    mine, theirs = unix_pair()
    end = SocketEnd(theirs)
    mine.sendall(b"part")
    mine.close()
    assert await end.receive() == b"part"
    with pytest.raises(EndFailed, match="reset"):
        await end.receive()
    end.close(reset=True)
    mine, theirs = unix_pair()
    end = SocketEnd(theirs)
    await end.finish()
    mine.close()
    assert await end.receive() == b""
    end.close(reset=False)


async def test_closing_with_a_reset_and_without() -> None:
    for reset in (True, False):
        mine, theirs = tcp_pair()
        with mine:
            SocketEnd(theirs).close(reset=reset)
            if reset:
                with pytest.raises(ConnectionResetError):
                    mine.recv(1)
            else:
                assert mine.recv(1) == b""


async def test_a_failure_is_told_while_nobody_reads() -> None:
    mine, theirs = tcp_pair()
    end = SocketEnd(theirs)
    failed = trio.Event()
    end.watch(failed.set)
    close_with_reset(mine)
    with trio.fail_after(5):
        await failed.wait()
    end.close(reset=True)


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """Make a TlsEnd of ours and an `ssl.SSLSocket` that is its peer."""
    pki = Pki(tmp_path_factory.mktemp("pki"))
    client, server = load_identity(pki.identity(pki.directory / "me")), pki.server()

    async def make() -> tuple[ssl.SSLSocket, TlsEnd]:
        mine, theirs = tcp_pair()
        pump = TlsPump(client, server_hostname="localhost")
        made: list[ssl.SSLSocket] = []
        thread = threading.Thread(target=lambda: made.append(server.wrap_socket(
            mine, server_side=True, suppress_ragged_eofs=False)))  # fmt: skip
        thread.start()
        await handshake(prepare(theirs), pump)
        await trio.to_thread.run_sync(thread.join)
        return made[0], TlsEnd(theirs, pump)

    return make


async def test_tls_half_close_leaves_the_other_way_open(tls) -> None:
    peer, end = await tls()
    with peer:
        await end.send(b"question")
        await end.finish()
        assert peer.recv(100) == b"question"
        assert peer.recv(100) == b""
        peer.sendall(b"a" * 100_000)
        peer.unwrap()
        assert await _receive_all(end) == b"a" * 100_000
        end.close(reset=False)


async def test_tls_that_is_cut_is_no_end(tls) -> None:
    for cut in (close_with_reset, socket.socket.close):
        peer, end = await tls()
        peer.sendall(b"part")
        plain = socket.socket(fileno=peer.detach())
        assert await end.receive() == b"part"
        cut(plain)
        with pytest.raises(EndFailed):
            await end.receive()
        end.close(reset=True)


async def test_closing_tls_with_a_reset_shows_no_end(tls) -> None:
    peer, end = await tls()
    with peer:
        end.close(reset=True)
        with pytest.raises(OSError, match=r"reset|EOF"):
            peer.recv(1)


async def test_standard_input_and_output_may_be_files_and_pipes(tmp_path) -> None:
    (tmp_path / "in").write_bytes(b"x" * 1_000_000)
    reader = os.open(tmp_path / "in", os.O_RDONLY)
    read_side, write_side = os.pipe()
    end = StdioEnd(reader, write_side)
    assert await _receive_all(end) == b"x" * 1_000_000
    await end.send(b"out")
    await end.finish()
    with os.fdopen(read_side, "rb") as result:
        assert result.read() == b"out", "its reader sees the end"
    for number in (reader, write_side):
        os.close(number)


async def test_standard_streams_that_somebody_made_non_blocking() -> None:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        theirs.setblocking(False)
        end = StdioEnd(theirs.fileno(), theirs.fileno())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end.send, b"x" * 2_000_000)
            mine.settimeout(10)
            got = 0
            while got < 2_000_000:
                got += len(await trio.to_thread.run_sync(mine.recv, 65536))
        mine.sendall(b"back")
        assert await end.receive() == b"back"


async def test_a_reader_that_has_gone() -> None:
    read_side, write_side = os.pipe()
    os.close(read_side)
    with pytest.raises(EndFailed, match="standard output: broken pipe"):
        await StdioEnd(0, write_side).send(b"x")
    os.close(write_side)
