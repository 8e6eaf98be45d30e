"""The secrets of handshakes: whose they are, and that nothing of them stays anywhere."""

from __future__ import annotations

import os
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from tests.tunnel_wire import key_updates
from tests.tunnel_wire.handshakes import read, shaken
from tests.tunnel_wire.links import new_contexts
from tunnel_wire import secret_log
from tunnel_wire.link_buffers import LinkBuffers
from tunnel_wire.link_tls import LinkTls
from tunnel_wire.secret_log import SecretLog
from tunnel_wire.tls import TlsPump


def pipes() -> dict[int, str]:
    """Descriptors of this process that are pipes."""
    found = {}
    for each in list(Path("/proc/self/fd").iterdir()):
        if each.is_fifo():
            found[int(each.name)] = str(each.readlink())
    return found


def taken_over(pump: TlsPump) -> LinkTls:
    tls = LinkTls(pump, LinkBuffers())
    assert tls.take_over()
    return tls


def understood(server: TlsPump, client: TlsPump, said: bytes) -> bool:
    """Whether the secrets at the server are this connection's: its client is OpenSSL."""
    return read(client, bytes(taken_over(server).seal([said], len(said)))) == said


def test_both_ends_know_the_same_secrets_in_their_own_order() -> None:
    server, client = shaken()
    one, other = server.agreed(), client.agreed()
    assert one is not None
    assert other is not None
    assert one == (other[0], other[2], other[1])
    assert one[1] != one[2]


def test_nothing_is_open_between_steps() -> None:
    before = pipes()
    both = new_contexts()
    server, client = TlsPump(both[0], server_side=True), TlsPump(both[1], server_hostname="test")
    steps, done = 0, False
    while not done:
        for one, other in ((client, server), (server, client)):
            done = one.handshake_step()
            other.feed(one.ciphertext())
            assert pipes() == before
            assert not any(context.keylog_filename for context in both)
            steps += 1
    assert steps == 4
    assert server.agreed()


def test_within_a_step_no_program_that_is_started_gets_it() -> None:
    before = pipes()
    with SecretLog(new_contexts()[0]):
        own = pipes().keys() - before.keys()
        assert len(own) == 2, "our end, and OpenSSL's"
        assert not any(map(os.get_inheritable, own))
    assert pipes() == before


def test_handshakes_in_turns_get_their_own_secrets() -> None:
    both = new_contexts()
    pumps = [(TlsPump(both[0], server_side=True), TlsPump(both[1], server_hostname="test")) for _ in range(5)]
    for turn in range(5):  # whose steps come in another order each time
        for server, client in pumps[turn:] + pumps[:turn]:
            if turn % 2:
                server.feed(client.ciphertext())
                server.handshake_step()
            else:
                client.feed(server.ciphertext())
                client.handshake_step()
    for number, (server, client) in enumerate(pumps):
        assert understood(server, client, b"connection %d" % number)


def test_a_handshake_that_fails_leaves_nothing_for_the_next() -> None:
    """The client refuses the server's certificate when the secrets have been written."""
    before = pipes()
    both = new_contexts()
    server, client = TlsPump(both[0], server_side=True), TlsPump(both[1], server_hostname="another")
    client.handshake_step()
    server.feed(client.ciphertext())
    server.handshake_step()
    client.feed(server.ciphertext())
    with pytest.raises(ssl.SSLCertVerificationError):
        client.handshake_step()
    server.feed(client.ciphertext())
    with pytest.raises(ssl.SSLError):
        server.handshake_step()
    assert pipes() == before
    for _ in range(2):
        one, other = shaken(both)
        assert other.agreed()
        assert understood(one, other, b"x")


@pytest.mark.skipif(not key_updates.available, reason="needs an ordinary build of CPython")
def test_new_keys_of_openssl_s_are_not_logged() -> None:
    """Where they were, a full pipe would stop the whole program."""
    server, client = shaken()
    for one, other in ((server, client), (client, server)):
        for _ in range(1000):
            assert one._ssl is not None
            key_updates.ask_for_new_keys(one._ssl)
        assert read(other, one.ciphertext()) == b""
        other.write([b"x"], 1)
        assert read(one, other.ciphertext()) == b"x"


def test_another_thread_learns_nothing_and_its_handshakes_work() -> None:
    """What is logged is the context's: two at once could not tell whose it is."""
    both = new_contexts()
    assert shaken(both)[0].agreed()
    with ThreadPoolExecutor(1) as thread:
        server, client = thread.submit(shaken, both).result(10)
    assert server.agreed() is client.agreed() is None
    server.write([b"hello"], 5)
    assert read(client, server.ciphertext()) == b"hello"
    assert shaken(both)[0].agreed()


def test_lines_of_others_say_nothing() -> None:
    log = SecretLog(new_contexts()[0])
    log._read("# a comment\nCLIENT_HANDSHAKE_TRAFFIC_SECRET 00 01\nEXPORTER_SECRET 00 02\n\n")
    assert log.client == log.server == b""
    log._read("SERVER_TRAFFIC_SECRET_0 00 0304\nSERVER_TRAFFIC_SECRET_1 00 05\n")
    assert (log.client, log.server) == (b"", b"\3\4")


@pytest.mark.parametrize("missing", ["/proc", "descriptors"])
def test_without_a_pipe_there_are_no_secrets_and_connections_work(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    before = pipes()
    both = new_contexts()
    with monkeypatch.context() as patch:
        if missing == "/proc":
            patch.setattr(secret_log.os, "pipe2", lambda flags, pipe2=os.pipe2: _unnamed(*pipe2(flags)))
        else:
            patch.setattr(secret_log.os, "pipe2", _none_left)
        server, client = shaken(both)
    assert server.agreed() is client.agreed() is None
    assert not LinkTls(server, LinkBuffers()).take_over()
    server.write([b"hello"], 5)
    assert read(client, server.ciphertext()) == b"hello"
    assert pipes() == before


class Nameless(int):
    """A descriptor that nobody finds by its name."""

    def __format__(self, how: str) -> str:
        return "nowhere"


def _unnamed(ours: int, theirs: int) -> tuple[int, int]:
    return ours, Nameless(theirs)


def _none_left(flags: int) -> tuple[int, int]:
    raise OSError(24, "Too many open files")


def test_nothing_is_logged_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SecretLog, "__enter__", _forbidden)
    assert shaken(new_contexts(log_secrets=False))[0].agreed() is None


def _forbidden(log: SecretLog) -> NoReturn:
    raise AssertionError("it is logged")
