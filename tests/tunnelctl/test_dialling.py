"""Asking a CONNECT server, over a Unix socket and over mutual TLS: what comes back, and every refusal."""

import socket
from datetime import UTC, datetime, timedelta

import pytest
import trio

from certs.identity import Role
from tests.tunnelctl.connect_server import OK, Pki, caller_of, echo, serving, unix_listener
from tunnelctl import dialling
from tunnelctl.dialling import dial, reach
from tunnelctl.errors import CommandError, NotReachableError, RefusedError
from tunnelctl.ways import LocalWay, RemoteWay, load_identity


@pytest.fixture
def local(tmp_path):
    return LocalWay(tmp_path / "connect.sock")


@pytest.fixture(scope="module")
def pki(tmp_path_factory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def remote(pki: Pki, listener: socket.socket, name: str, **options) -> RemoteWay:
    return RemoteWay(
        "127.0.0.1", listener.getsockname()[1], load_identity(pki.identity(pki.directory / name, **options))
    )


async def test_a_call_over_the_unix_socket(local) -> None:
    with serving(unix_listener(local.path), echo):
        end = await dial(local, "edge-1", 80)
        await end.send(b"hello")
        await end.finish()
        received = b""
        while data := await end.receive():
            received += data
        end.close(reset=False)
    assert received == b"hello bye"


async def test_a_call_over_tls_shows_who_calls(listener, pki) -> None:
    seen = []

    def behave(caller, target) -> None:
        seen.append((caller_of(caller).uri, target, caller.selected_alpn_protocol()))
        echo(caller, target)

    context = pki.server()
    context.set_alpn_protocols(["tunnel/1", "http/1.1"])
    with serving(listener, behave, context):
        end = await dial(remote(pki, listener, "me"), "edge-1", 443)
        await end.send(b"x" * 300_000)
        await end.finish()
        received = b""
        while data := await end.receive():
            received += data
        end.close(reset=False)
    assert received == b"x" * 300_000 + b" bye"
    assert seen == [("spiffe://example.org/caller/ci", "edge-1:443", "http/1.1")]


async def test_bytes_right_behind_the_answer_are_not_lost(local) -> None:
    with serving(unix_listener(local.path), lambda caller, _target: caller.sendall(OK + b"SSH-2.0")):
        end = await dial(local, "edge-1", 22)
        assert await end.receive() == b"SSH-2.0"
        end.close(reset=True)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (
            b"403 not-allowed: edge-1:22 is not among its ports",
            RefusedError,
            "edge-1:80: not-allowed: edge-1:22",
        ),
        (
            b"502 refused: nothing listens\r\ntunnel-cause: refused",
            CommandError,
            "edge-1:80: refused: nothing",
        ),
        (b"503 no such node\r\ntunnel-cause: no-such-node", RefusedError, "edge-1:80: no such node"),
        (b"504 away: edge-1 is not connected", CommandError, "edge-1:80: away: edge-1 is not connected"),
        (b"405 Method Not Allowed", NotReachableError, "does it serve HTTP CONNECT?"),
        (b"502 \x1b[2J", CommandError, r"edge-1:80: \?\[2J|does not speak"),
    ],
)
async def test_a_refusal_is_one_line_with_the_cause(answer, error, message, local) -> None:
    def behave(caller, _target) -> None:
        caller.sendall(b"HTTP/1.1 " + answer + b"\r\ncontent-length: 0\r\n\r\n")

    with serving(unix_listener(local.path), behave), pytest.raises(CommandError, match=message) as caught:
        await dial(local, "edge-1", 80)
    assert isinstance(caught.value, error)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"", "no answer to CONNECT: it"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not speak HTTP CONNECT"),
        (b"HTTP/1.1 200 " + b"x" * 20_000, "does not speak HTTP CONNECT"),
    ],
)
async def test_what_is_no_connect_server(said, message, local) -> None:
    with (
        serving(unix_listener(local.path), lambda caller, _target: caller.sendall(said)),
        pytest.raises(NotReachableError, match=message),
    ):
        await dial(local, "edge-1", 80)


async def test_a_server_that_never_answers(local, autojump_clock) -> None:
    autojump_clock.autojump_threshold = 0.2
    listener = unix_listener(local.path)
    with listener, pytest.raises(CommandError, match="no answer to CONNECT within 60 s"):
        await dial(local, "edge-1", 80)


async def test_nobody_listens(local, tmp_path, pki) -> None:
    for where in (local, LocalWay(tmp_path / "file" / "below")):
        (tmp_path / "file").touch()
        with pytest.raises(NotReachableError, match=r"no server listens at .*--connect-socket"):
            await reach(where)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        way = remote(pki, listener, "alone")
    with pytest.raises(NotReachableError, match=r"127\.0\.0\.1:\d+: connection refused"):
        await reach(way)


async def test_a_node_cannot_play_the_server(listener, pki) -> None:
    with (
        serving(listener, echo, pki.server(Role.NODE)),
        pytest.raises(NotReachableError, match=r"refused: |is no tunnel server"),
    ):
        await reach(remote(pki, listener, "trusting"))


async def test_a_server_of_another_authority(listener, pki, tmp_path) -> None:
    with (
        serving(listener, echo, Pki(tmp_path / "other").server()),
        pytest.raises(NotReachableError, match="another authority"),
    ):
        await reach(remote(pki, listener, "strange"))


async def test_an_expired_caller_is_told_so(listener, pki) -> None:
    then = datetime.now(UTC) - timedelta(days=2)
    with serving(listener, echo, pki.server()):
        way = remote(pki, listener, "old", life=timedelta(days=1), now=then)
        with pytest.raises(RefusedError, match="refuses this caller's certificate as expired: get a new one"):
            await dial(way, "edge-1", 80)


async def test_what_answers_speaks_no_tls(listener, pki) -> None:

    def answer_plainly() -> None:
        with listener.accept()[0] as caller:
            caller.recv(1)
            caller.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            caller.recv(4096)

    with listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, answer_plainly)
            with pytest.raises(NotReachableError, match="does not speak TLS"):
                await reach(remote(pki, listener, "plain"))


def test_every_time_is_bounded() -> None:
    assert 0 < dialling.CONNECT_TIMEOUT < dialling.ANSWER_TIMEOUT <= 60
