"""The public port: agents by ALPN, the HTTPS API for the rest, and neither can be shut out by the silent."""

from __future__ import annotations

import socket
import ssl
import subprocess

import pytest
import trio
import trio.testing

from certs.authority import Authority
from certs.requests import key_pem, new_key
from tests.tunnel_server.core import DOMAIN, Core, running
from tunnel_server.frontends.connect import ConnectFrontend
from tunnel_server.frontends.naming import Naming
from tunnel_server.rights import Rights
from tunnel_wire.frames import PREFACE, SETTINGS, frame_header
from tunnel_wire.tls_stream import TlsStream


async def curl(core: Core, *options: str) -> str:
    authority = core.directory / "ca.pem"
    authority.write_text(core.authority.pem)
    done = await trio.run_process(
        [
            "curl",
            "--silent",
            "--show-error",
            "--max-time",
            "10",
            "--cacert",
            str(authority),
            "--resolve",
            f"localhost:{core.port}:127.0.0.1",
            *options,
            f"https://localhost:{core.port}/x",
        ],
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.decode()


@pytest.mark.parametrize("options", [(), ("--http1.1",), ("--no-alpn",)])
async def test_curl_reaches_the_api(options: tuple[str, ...]) -> None:
    async with running() as core:
        agent = await core.agent()
        assert await curl(core, *options) == "the API\n"
        assert core.requests[0].path == "/x"
        await core.wait_linked("edge-1", agent.session)


@pytest.mark.parametrize("offered", [["h2", "http/1.1"], ["h2"]])
async def test_the_api_speaks_no_http_2(offered: list[str]) -> None:
    """Only links are HTTP/2, and ALPN calls that `tunnel/1`."""
    async with running() as core:
        context = core.credentials(None, None)
        context.set_alpn_protocols(offered)
        sock, pump = await core.connect(context)
        assert pump.alpn == ("http/1.1" if "http/1.1" in offered else None)
        stream = TlsStream(sock, pump)
        await stream.send_all(PREFACE + frame_header(0, SETTINGS, 0, 0))
        with trio.fail_after(5):
            assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 400 ")
        await stream.aclose()
    assert core.requests == []


def flood(core: Core, count: int, *, say: bytes = b"") -> list[socket.socket]:
    sockets = []
    for _ in range(count):
        sock = socket.socket()
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.connect(("127.0.0.1", core.port))
        sockets.append(sock)
    if say:
        for sock in sockets:
            sock.setblocking(True)
            sock.send(say)
    return sockets


async def test_a_thousand_that_say_nothing_shut_nobody_out() -> None:
    async with running() as core:
        sockets = flood(core, 1000)
        with trio.fail_after(5):
            agent = await core.agent()
            await core.wait_linked("edge-1", agent.session)
        for sock in sockets:
            sock.close()


async def test_nor_do_those_that_begin_and_stop() -> None:
    async with running(handshakes=20) as core:
        # The first bytes of a ClientHello.
        sockets = flood(core, 60, say=b"\x16\x03\x01\x02\x00\x01\x00")
        with trio.fail_after(8):
            agent = await core.agent()
            await core.wait_linked("edge-1", agent.session)
        for sock in sockets:
            sock.close()


async def test_a_silent_connection_is_given_up() -> None:
    async with running(handshake_timeout=0.2) as core:
        async with await trio.open_tcp_stream("127.0.0.1", core.port) as stream:
            with trio.fail_after(5):
                assert await stream.receive_some() == b""
        assert b'handshake_failures_total{reason="timeout"} 1.0' in core.metrics.render()


async def test_failed_handshakes_are_counted_by_their_reason() -> None:
    async with running() as core:
        async with await trio.open_tcp_stream("127.0.0.1", core.port) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
            with trio.fail_after(5):
                while await stream.receive_some():
                    pass
        old = ssl.create_default_context()
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(OSError, match="ALERT_PROTOCOL_VERSION"):
            await core.connect(old)
        assert b'handshake_failures_total{reason="tls"} 2.0' in core.metrics.render()


async def test_certificates_of_others_are_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with running() as core:
        stranger, _ = Authority.make(core.authority.domain)
        for _ in range(3):
            sock, _ = await core.connect(core.node(authority=stranger))
            with sock, trio.fail_after(5):
                await trio.lowlevel.wait_readable(sock)
                while sock.recv(4096):
                    await trio.lowlevel.wait_readable(sock)
        assert b'handshake_failures_total{reason="certificate"} 3.0' in core.metrics.render()
    (told,) = [each for each in caplog.messages if "its certificate is refused: " in each]
    assert told.startswith("TLS handshake with 127.0.0.1:")


async def test_idle_api_connections_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnel_server.listener._API_CONNECTIONS", 3)
    async with running() as core:
        context = core.credentials(None, None)
        context.set_alpn_protocols(["http/1.1"])
        idle = [TlsStream(*await core.connect(context)) for _ in range(3)]
        with trio.fail_after(10):
            while True:
                try:
                    assert await curl(core) == "the API\n"
                except AssertionError:
                    await trio.sleep(0.2)
                else:
                    break
        for stream in idle:
            await stream.aclose()


async def test_running_out_of_descriptors_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    real = trio.SocketListener.accept
    failures = [OSError(24, "Too many open files")] * 2

    async def accept(listener: trio.SocketListener) -> trio.SocketStream:
        if failures:
            raise failures.pop()
        return await real(listener)

    monkeypatch.setattr(trio.SocketListener, "accept", accept)
    async with running() as core:
        agent = await core.agent()
        await core.wait_linked("edge-1", agent.session)
    assert not failures


async def test_a_context_is_replaced_while_it_runs() -> None:
    async with running() as core:
        before = core.listener.context
        core.listener.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with pytest.raises(OSError, match="HANDSHAKE_FAILURE"):
            await core.connect(core.node())
        core.listener.context = before
        await core.agent()


@pytest.mark.parametrize("a_caller", [False, True])
@pytest.mark.parametrize(
    ("said", "then"),
    [(b"", b""), (b"CONN", b""), (b"CONN", b"ECT edge-1:1 HTTP/1.1\r\n"), (b"", b"GET / HTTP/1.1\r\n")],
)
async def test_a_head_has_ten_seconds_from_the_handshake_whatever_it_is(
    said: bytes, then: bytes, a_caller: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with running() as core:
        core.listener._connect = ConnectFrontend(
            core.calls, Naming(core.registry), Rights({}), domain=DOMAIN, acceptance=core.acceptance
        )
        key = new_key()
        pem = core.authority.issue_caller(key.public_key(), "kube") if a_caller else None
        context = core.credentials(pem, key_pem(key))
        context.set_alpn_protocols(["http/1.1"])
        stream = TlsStream(*await core.connect(context))
        began = trio.current_time()
        await stream.send_all(said)
        await trio.sleep(9)
        await stream.send_all(then)
        got = await stream.receive_some()
        assert bytes(got).startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() - began == pytest.approx(10, abs=0.5)
        await stream.aclose()
