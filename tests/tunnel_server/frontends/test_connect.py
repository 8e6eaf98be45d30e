"""HTTP CONNECT: kube-apiserver's bytes, curl's, and nobody's who may not."""

from __future__ import annotations

import json
import os
import ssl
import time
from contextlib import asynccontextmanager
from ipaddress import ip_network
from types import SimpleNamespace
from typing import TYPE_CHECKING

import h11
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from certs.authority import Authority
from certs.requests import key_pem, new_key
from certs.revocations import Kind
from certs.subjects import read_subject
from tests.tunnel_server.core import DOMAIN
from tests.tunnel_server.frontends.edges import Edges, curl, edges
from tests.tunnel_server.frontends.test_destination import hosts
from tests.tunnel_server.frontends.test_host import says
from tunnel_server.admin.unix_socket import SocketUsers
from tunnel_server.audit import Audit
from tunnel_server.direct import DirectTarget
from tunnel_server.frontends.connect import ConnectFrontend, NotConnect, read_target
from tunnel_server.frontends.connect_socket import ConnectSocket
from tunnel_server.node_networks import NodeNetworks, NodeSettings
from tunnel_server.rights import CallerRights, NodeGlob, PortRange, Rights
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.tls_stream import TlsStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MIB = 1 << 20
ESTABLISHED = b"HTTP/1.1 200 Connection Established\r\n\r\n"


def egress(target: str) -> bytes:
    """What kube-apiserver's EgressSelector sends."""
    return f"CONNECT {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def rights(nodes: str = "edge-1", ports: str = "*", *, direct: bool = False) -> CallerRights:
    return CallerRights(nodes=(NodeGlob.parse(nodes),), ports=(PortRange.parse(ports),), direct=direct)


class Front:
    """Both ways to a CONNECT frontend."""

    def __init__(self, made: Edges, path: Path) -> None:
        self.made = made
        self.rights = Rights({})
        self.frontend = ConnectFrontend(
            made.core.calls,
            made.naming,
            self.rights,
            domain=DOMAIN,
            acceptance=made.core.acceptance,
        )
        made.core.listener._connect = self.frontend
        self.socket = path / "connect.sock"
        self.directory = path

    async def unix(self, request: bytes) -> trio.SocketStream:
        stream = await trio.open_unix_socket(str(self.socket))
        await stream.send_all(request)
        return stream

    def issue(self, name: str, role: str = "caller") -> Path:
        key = new_key()
        authority = self.made.core.authority
        if role == "caller":
            pem = authority.issue_caller(key.public_key(), name)
        else:
            pem = authority.issue_node(key.public_key(), name, [])
        path = self.directory / f"{name}.pem"
        path.write_bytes(key_pem(key) + pem.encode())
        (self.directory / "ca.pem").write_text(authority.pem)
        return path

    async def tls(self, request: bytes, name: str | None = "kube", role: str = "caller") -> TlsStream:
        context = ssl.create_default_context(cadata=self.made.core.authority.pem)
        if name is not None:
            context.load_cert_chain(self.issue(name, role))
        stream = TlsStream(*await self.made.core.connect(context))
        await stream.send_all(request)
        return stream

    def curl_options(self, name: str) -> tuple[str, ...]:
        path = self.issue(name)
        return (
            "--proxytunnel",
            *("--proxy", f"https://localhost:{self.made.core.port}"),
            *("--proxy-cacert", f"{self.directory}/ca.pem", "--proxy-cert", f"{path}"),
        )


@asynccontextmanager
async def front(path: Path, uids: tuple[int, ...] = (), **options: float) -> AsyncIterator[Front]:
    async with edges(**options) as made:
        await made.add("edge-1", "192.168.2.143")
        await made.add("edge-2", "192.168.2.144")
        built = Front(made, path)
        await made.core.nursery.start(ConnectSocket(built.frontend, SocketUsers(uids)).serve, built.socket)
        yield built


async def everything(stream: trio.abc.ReceiveStream) -> bytes:
    data = b""
    with trio.fail_after(10):
        while part := await stream.receive_some():
            data += part
    return data


async def head_of(stream: trio.abc.ReceiveStream) -> bytes:
    data = b""
    with trio.fail_after(10):
        while b"\r\n\r\n" not in data:
            part = await stream.receive_some()
            assert part, data
            data += part
    return data


async def echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


@pytest.mark.parametrize("way", ["unix", "tls"])
@pytest.mark.parametrize("target", ["edge-1:9081", "EDGE-1.:9081", "192.168.2.143:9081"])
async def test_egress_selector(way: str, target: str, tmp_path: Path) -> None:
    async with front(tmp_path) as built:
        await built.made.serve("edge-1", 9081, echo)
        built.rights.callers = {"kube": rights(ports="9081")}
        stream = await getattr(built, way)(egress(target))
        async with stream:
            assert await head_of(stream) == ESTABLISHED
            data = os.urandom(4 * MIB)
            received = bytearray()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, data)
                with trio.fail_after(20):
                    while len(received) < len(data):
                        received += await stream.receive_some()
            assert received == data
            await stream.send_eof()
            assert await everything(stream) == b""


@pytest.mark.parametrize("way", ["unix", "tls"])
async def test_what_is_said_before_the_answer_is_not_lost(way: str, tmp_path: Path) -> None:
    async with front(tmp_path) as built:
        await built.made.serve("edge-1", 80, echo)
        built.rights.callers = {"kube": rights()}
        stream = await getattr(built, way)(egress("edge-1:80") + b"too early")
        async with stream:
            await stream.send_eof()
            assert await everything(stream) == ESTABLISHED + b"too early"


@pytest.mark.parametrize("way", ["unix", "tls"])
async def test_a_caller_may_end_and_still_listen(way: str, tmp_path: Path) -> None:
    async def last_word(stream: trio.SocketStream) -> None:
        data = b"".join([part async for part in stream])
        await stream.send_all(b"got " + data)

    async with front(tmp_path) as built:
        await built.made.serve("edge-1", 80, last_word)
        built.rights.callers = {"kube": rights()}
        stream = await getattr(built, way)(egress("edge-1:80"))
        async with stream:
            await head_of(stream)
            await stream.send_all(b"all")
            await stream.send_eof()
            assert await everything(stream) == b"got all"


async def test_curl_over_mutual_tls(tmp_path: Path) -> None:
    async with front(tmp_path) as built:
        await built.made.serve("edge-1", 80, says("one"))
        built.rights.callers = {"ops": rights(ports="80-90")}
        options = built.curl_options("ops")
        _, out = await curl(*options, "http://edge-1/x")
        assert out.startswith("one\nGET /x HTTP/1.1")
        status, out = await curl(*options, "http://edge-1:22/")
        assert status
        assert "403" in out
        status, out = await curl(*options, "http://edge-2/")
        assert status
        failure = built.made.core.calls.failures[-1]
        assert (failure.cause, failure.detail) == (Cause.NOT_ALLOWED, "this caller has no right to edge-2")


async def test_an_ordinary_request_is_told_what_this_is(tmp_path: Path) -> None:
    async with front(tmp_path) as built:
        _, out = await curl("-i", "--unix-socket", f"{built.socket}", "http://edge-2/")
        assert out.startswith("HTTP/1.1 405 this is for CONNECT only")


async def test_a_reset_of_the_target_is_one_for_the_caller(tmp_path: Path) -> None:
    async def cut(stream: trio.SocketStream) -> None:
        await stream.send_all(b"half of ")
        await trio.sleep(0.05)
        stream.setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")  # SO_LINGER 0

    async with front(tmp_path) as built:
        await built.made.serve("edge-1", 80, cut)
        built.rights.callers = {"kube": rights()}
        async with await built.tls(egress("edge-1:80")) as stream:
            data = b""
            with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):  # noqa: PT012
                while True:
                    part = await stream.receive_some()
                    assert part, "a clean end"
                    data += part
        assert data == ESTABLISHED + b"half of "


async def test_a_cut_caller_is_a_reset_for_the_target(tmp_path: Path) -> None:
    ends: list[str] = []
    done = trio.Event()

    async def service(stream: trio.SocketStream) -> None:
        try:
            while await stream.receive_some():
                pass
            ends.append("end")
        except trio.BrokenResourceError:
            ends.append("reset")
        done.set()

    async with front(tmp_path) as built:
        await built.made.serve("edge-1", 80, service)
        built.rights.callers = {"kube": rights()}
        stream = await built.tls(egress("edge-1:80"))
        await head_of(stream)
        await stream.send_all(b"half")
        stream.socket.close()  # without close_notify
        with trio.fail_after(10):
            await done.wait()
        assert ends == ["reset"]


@pytest.mark.parametrize(
    ("name", "role", "why"),
    [
        (None, "", "CONNECT needs a caller's certificate"),
        ("edge-1", "node", f"spiffe://{DOMAIN}/node/edge-1 is no caller"),
        ("stranger", "caller", "this caller has no right to edge-1"),
        ("local", "caller", "this caller has no right to edge-1"),
    ],
)
async def test_who_may_not(name: str | None, role: str, why: str, tmp_path: Path) -> None:
    async with front(tmp_path) as built:
        await built.made.serve("edge-1", 80, echo)
        built.rights.callers = {"local": rights("*"), "kube": rights("*")}
        async with await built.tls(egress("edge-1:80"), name, role) as stream:
            answer = await everything(stream)
        assert answer.startswith(b"HTTP/1.1 403 not-allowed: ")
        assert why.encode() in answer
        assert not built.made.dialled
        told = list(built.made.core.calls.failures)
        assert len(told) == (name is not None), "strangers fill neither the status nor the audit log"
        for failure in told:
            assert why in failure.detail
            assert (failure.node, failure.target) == ("edge-1", "192.168.2.143:80")


async def test_more_connections_than_calls(tmp_path: Path) -> None:
    async with (
        front(tmp_path, calls=1) as built,
        await built.unix(b"CONN"),
        await built.unix(egress("edge-1:80")) as second,
    ):
        assert (await head_of(second)).startswith(b"HTTP/1.1 503 no-room: 1 connections are open")


async def test_strangers_who_stall_are_bounded_and_shut_no_caller_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with front(tmp_path) as built:
        await built.made.serve("edge-1", 80, echo)
        built.rights.callers = {"kube": rights()}
        monkeypatch.setattr(built.made.core.listener._api_connections, "limit", 3)
        monkeypatch.setattr("tunnel_daemon.crowd._PATIENCE", 0)
        strangers = [await built.tls(b"CONNECT edge-1:", None) for _ in range(3)]
        async with await built.tls(egress("edge-1:80")) as stream:
            assert await head_of(stream) == ESTABLISHED
        with trio.fail_after(5):  # the oldest made room
            assert not await strangers[0].receive_some()
        for stranger in strangers:
            await stranger.aclose()


@pytest.mark.parametrize("kind", [Kind.CALLER, Kind.SERIAL])
async def test_revoked_before_and_meanwhile(kind: Kind, tmp_path: Path) -> None:
    async with front(tmp_path) as built:
        core = built.made.core
        await built.made.serve("edge-1", 80, echo)
        built.rights.callers = {"kube": rights(), "other": rights()}
        async with (
            await built.tls(egress("edge-1:80"), "other") as other,
            await built.tls(egress("edge-1:80")) as stream,
        ):
            await head_of(other)
            await head_of(stream)
            shown = (tmp_path / "kube.pem").read_bytes()
            serial = read_subject(shown[shown.index(b"-----BEGIN CERT") :]).certificate.serial_number
            core.revoke(kind, "kube" if kind is Kind.CALLER else f"{serial:x}")
            with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
            await other.send_all(b"mine")
            assert await other.receive_some() == b"mine"
        if kind is Kind.CALLER:
            async with await built.tls(egress("edge-1:80")) as stream:
                assert b"403 not-allowed: caller kube was revoked" in await everything(stream)


async def test_expired_meanwhile_and_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with front(tmp_path) as built:
        await built.made.serve("edge-1", 80, echo)
        built.rights.callers = {"kube": rights()}
        async with await built.tls(egress("edge-1:80")) as stream:
            await head_of(stream)
            later = SimpleNamespace(time=lambda: time.time() + 400 * 86400)
            monkeypatch.setattr("tunnel_server.acceptance.time", later)
            with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        monkeypatch.setattr("tunnel_server.peers.time", later)
        async with await built.tls(egress("edge-1:80")) as stream:
            assert b"403 not-allowed: the certificate of kube expired at" in await everything(stream)


async def test_its_root_is_trusted_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tunnel_server.acceptance._ROLL_GRACE", 0.3)
    async with front(tmp_path) as built:
        await built.made.serve("edge-1", 80, echo)
        built.rights.callers = {"kube": rights()}
        async with await built.tls(egress("edge-1:80")) as stream:
            await head_of(stream)
            built.made.core.acceptance.change_authority(Authority.make(DOMAIN)[0])
            await stream.send_all(b"for now")
            assert await stream.receive_some() == b"for now"
            with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        assert "the certificate of kube is of a root that is trusted no longer" in caplog.text


@pytest.mark.parametrize(
    ("request_", "start"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 405 "),
        (egress("edge-1"), b"HTTP/1.1 400 "),
        (egress("edge_1:80"), b"HTTP/1.1 400 "),
        (egress("edge-1:99999"), b"HTTP/1.1 400 "),
        (egress("edge-9:80"), b"HTTP/1.1 400 no-such-node: no node is called edge-9"),
        (egress("192.168.9.9:80"), b"HTTP/1.1 400 no-such-node: no node has the address 192.168.9.9"),
        (egress("edge-1:80"), b"HTTP/1.1 502 refused: nobody listens\r\n"),
        (b"CONNECT edge-1:80 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", b"HTTP/1.1 400 "),
        (b"CONNECT edge-1:80 HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
        (b"CONNECT edge-1:80 HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000, b"HTTP/1.1 431 "),
        (b"\x16\x03\x01 is no HTTP\r\n\r\n", b"HTTP/1.1 400 "),
    ],
)
async def test_refusals_say_why(request_: bytes, start: bytes, tmp_path: Path) -> None:
    async with front(tmp_path) as built, await built.unix(request_) as stream:
        await stream.send_eof()
        answer = await everything(stream)
        assert answer.startswith(start), answer
        assert b"\r\nConnection: close\r\n" in answer


async def test_a_node_that_is_away_is_told_within_the_deadline(tmp_path: Path) -> None:
    async with front(tmp_path, away_wait=0.1) as built:
        built.made.core.registry.node("edge-3")
        async with await built.unix(egress("edge-3:80")) as stream:
            assert (await head_of(stream)).startswith(b"HTTP/1.1 503 away: edge-3 is not connected")


async def test_an_agent_that_never_answers_is_told_within_the_deadline(tmp_path: Path) -> None:
    async with front(tmp_path, open_timeout=0.1) as built:
        built.made.core.on_request = lambda incoming: None
        async with await built.unix(egress("edge-1:80")) as stream:
            assert (await head_of(stream)).startswith(b"HTTP/1.1 504 timed-out: no answer from the agent")


async def test_direct_only_where_the_rights_say_so(tmp_path: Path) -> None:
    async with front(tmp_path) as built:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        built.made.core.nursery.start_soon(trio.serve_listeners, echo, listeners)
        async with await built.unix(egress(f"127.0.0.1:{port}")) as stream:
            assert (await head_of(stream)).startswith(b"HTTP/1.1 400 no-such-node")
        built.rights.callers = {"local": CallerRights(direct=True)}
        async with await built.unix(egress(f"127.0.0.1:{port}")) as stream:
            answer = await head_of(stream)
            assert answer.startswith(b"HTTP/1.1 403 not-allowed: 127.0.0.1 is a loopback address")
        special = (ip_network("127.0.0.0/8"),)
        allowed = CallerRights(direct=True, direct_special=special)
        built.rights.callers = {"local": allowed, "kube": allowed}
        for way in ("unix", "tls"):
            async with await getattr(built, way)(egress(f"127.0.0.1:{port}")) as stream:
                assert await head_of(stream) == ESTABLISHED
                await stream.send_all(b"direct")
                await stream.send_eof()
                assert await everything(stream) == b"direct"


async def test_an_edges_address_is_never_dialled_from_here(tmp_path: Path) -> None:
    async with front(tmp_path) as built:
        caller = CallerRights(direct=True)
        target = DirectTarget("192.168.2.143", 80, (), built.made.naming)
        with pytest.raises(Exception, match="is an edge's"):
            await target.dial()
        built.rights.callers = {"kube": caller}
        async with await built.tls(egress("192.168.2.143:80")) as stream:
            assert b"403 not-allowed: this caller has no right to edge-1" in await head_of(stream)


async def test_a_network_behind_a_node_is_reached_through_it_under_the_rights_to_it(tmp_path: Path) -> None:
    async with front(tmp_path) as built:
        await built.made.serve("edge-1", 80, echo)
        network = NodeSettings(networks=(ip_network("10.42.1.0/24"), ip_network("fd00:42::/64")))
        built.made.naming.networks = NodeNetworks({"edge-1": network})
        built.rights.callers = {
            "kube": rights(ports="80", direct=True),
            "other": rights("edge-2", direct=True),
        }
        for target in ("10.42.1.7", "fd00:42::7"):
            text = f"[{target}]" if ":" in target else target
            async with await built.tls(egress(f"{text}:80")) as stream:
                assert await head_of(stream) == ESTABLISHED
                await stream.send_all(b"pod")
                await stream.send_eof()
                assert await everything(stream) == b"pod"
            assert built.made.dialled[-1] == ("edge-1", target, 80)
        for port, name, why in [(81, "kube", "port 81 of edge-1"), (80, "other", "edge-1")]:
            async with await built.tls(egress(f"10.42.1.7:{port}"), name) as stream:
                answer = await head_of(stream)
                assert b"403 not-allowed: this caller has no right to " + why.encode() in answer
            failure = built.made.core.calls.failures[-1]
            assert (failure.node, failure.target) == ("edge-1", f"10.42.1.7:{port}")


@asynccontextmanager
async def audited(built: Front) -> AsyncIterator[list[dict[str, object]]]:
    """What the audit log says once the block has been left and all calls have ended."""
    path = built.directory / "audit.log"
    calls, entries = built.made.core.calls, []
    calls._audit = Audit(path)
    yield entries
    with trio.fail_after(5):
        while calls.open:
            await trio.sleep(0.01)
    calls._audit.close()
    entries += map(json.loads, path.read_text().splitlines())


async def test_the_audit_log_has_the_address_that_a_name_led_to(tmp_path: Path) -> None:
    async with front(tmp_path) as built:
        special = (ip_network("127.0.0.0/8"),)
        built.rights.callers = {"local": CallerRights(direct=True, direct_special=special)}
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        built.made.core.nursery.start_soon(trio.serve_listeners, echo, listeners)
        async with audited(built) as entries, await built.unix(egress(f"localhost:{port}")) as stream:
            assert await head_of(stream) == ESTABLISHED
            await stream.send_eof()
            assert await everything(stream) == b""
        (entry,) = entries
        assert (entry["wanted"], entry["target"]) == (f"localhost:{port}", f"127.0.0.1:{port}")
        assert entry["end"] == "finished"


async def test_the_audit_log_says_why_a_call_was_cut(tmp_path: Path) -> None:
    async with front(tmp_path) as built:
        await built.made.serve("edge-1", 80, echo)
        built.rights.callers = {"kube": rights()}
        async with audited(built) as entries, await built.tls(egress("edge-1:80")) as stream:
            await head_of(stream)
            built.made.core.revoke(Kind.CALLER, "kube")
            with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        (entry,) = entries
        assert entry["end"] == "cancelled"
        assert str(entry["detail"]).startswith("caller kube was revoked at ")


async def test_the_audit_log_says_why_a_call_did_not_come_about(tmp_path: Path) -> None:
    async with front(tmp_path) as built:
        asked = trio.Event()
        built.made.core.on_request = lambda _incoming: asked.set()
        built.rights.callers = {"kube": rights()}
        async with audited(built) as entries, await built.tls(egress("edge-1:80")) as stream:
            with trio.fail_after(5):
                await asked.wait()
            built.made.core.revoke(Kind.CALLER, "kube")
            assert await everything(stream) == b""
        (entry,) = entries
        assert (entry["node"], entry["target"], entry["end"]) == ("edge-1", "192.168.2.143:80", "cancelled")
        assert str(entry["detail"]).startswith("caller kube was revoked at ")


async def test_a_user_who_may_not_use_the_socket_is_accounted_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with front(tmp_path) as built:
        ours, theirs = trio.socket.socketpair()
        async with audited(built) as entries, trio.SocketStream(ours) as stream:
            await built.frontend.refuse_local(trio.SocketStream(theirs), 4712, "user 4712 may not")
            assert (await everything(stream)).startswith(b"HTTP/1.1 403 not-allowed: user 4712 may not")
        (entry,) = entries
        assert (entry["caller"], entry["identity"], entry["end"]) == ("uid 4712", "", "not-allowed")
        assert entry["detail"] == "user 4712 may not"
        core = built.made.core
        assert core.calls.failures[-1].caller == "uid 4712"
        assert b'calls_total{frontend="connect",outcome="not-allowed"} 1.0' in core.metrics.render()
        assert "user 4712 may not" in caplog.text


async def test_a_revoked_or_forgotten_edges_address_is_not_dialled_from_here(tmp_path: Path) -> None:
    async with front(tmp_path) as built:
        registry = built.made.core.registry
        everywhere = (ip_network("192.168.0.0/16"),)
        built.rights.callers = {
            "kube": CallerRights(direct=True),
            "wide": CallerRights(direct=True, direct_special=everywhere),
        }
        node = registry.by_name("edge-1")
        registry.withdraw(node, "node edge-1 was revoked at noon")
        for name in built.rights.callers:
            async with await built.tls(egress("192.168.2.143:80"), name) as stream:
                assert (await head_of(stream)).startswith(
                    b"HTTP/1.1 400 no-such-node: no node has the address 192.168.2.143 any more, "
                    b"edge-1 had it: node edge-1 was revoked at noon"
                )
        # By another name for it, too.
        target = DirectTarget("0xc0a8028f", 80, everywhere, built.made.naming)
        with pytest.raises(OpenFailed, match=r"192\.168\.2\.143 is an edge's"):
            await target.dial()
        registry.forget(node)
        async with await built.tls(egress("192.168.2.143:80")) as stream:
            why = b"403 not-allowed: 192.168.2.143 is no edge's, but inside edge-networks, and not in"
            assert why in await head_of(stream)


async def test_the_api_is_still_there_for_everybody_else(tmp_path: Path) -> None:
    request = b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with front(tmp_path) as built:
        for name in (None, "kube"):
            async with await built.tls(request, name) as stream:
                assert b"the API" in await everything(stream)


# --- the parser -----------------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=80).filter(lambda b: not set(b) & set(b" \r\n\t\0")))
def test_no_target_raises_anything_else(target: bytes) -> None:
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(b"CONNECT " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    try:
        event = parser.next_event()
        assert isinstance(event, h11.Request)
        host, port = read_target(event)
    except (h11.RemoteProtocolError, ValueError):
        return
    assert host
    assert host == host.lower()
    assert 0 < port < 65536


@given(hosts, st.integers(1, 65535))
def test_every_host_and_port_is_read(host: str, port: int) -> None:
    def target(text: str) -> tuple[str, int]:
        return read_target(h11.Request(method=b"CONNECT", target=text, headers=[("Host", "x")]))

    assert target(f"{host}:{port}") == (host.strip("[]").lower(), port)
    with pytest.raises(ValueError, match="names no port"):
        target(host)


def test_other_methods() -> None:
    request = h11.Request(method=b"GET", target=b"/", headers=[("Host", "x")])
    with pytest.raises(NotConnect):
        read_target(request)
