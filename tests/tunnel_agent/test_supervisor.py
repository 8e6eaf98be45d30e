import contextlib
import dataclasses
import gc
import logging
import socket
import ssl
from collections import Counter
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.tunnel_agent.conftest import Pki
from tests.tunnel_agent.test_join_client import connecting, listening
from tunnel_agent import supervisor as supervisor_module
from tunnel_agent.allow_list import AllowList
from tunnel_agent.config import AgentConfig
from tunnel_agent.credentials import load_credentials
from tunnel_agent.dialer import Dialer
from tunnel_agent.endpoint import Endpoint
from tunnel_agent.outbound_link import OutboundLink
from tunnel_agent.proxy import ProxyChoice
from tunnel_agent.status import AgentStatus
from tunnel_agent.supervisor import Supervisor
from tunnel_wire.answerer import AnswererConnection
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.hello import DrainReason
from tunnel_wire.link import Link
from tunnel_wire.sockets import close_with_reset, from_trio
from tunnel_wire.tls import TlsPump


@asynccontextmanager
async def agent(state, *servers: str, **settings):
    """A supervisor that runs in the background; its delays are the ceilings, not random."""
    settings = {"proxy": ProxyChoice("none"), "backoff_min": 0.01, "backoff_max": 0.01, **settings}
    config = AgentConfig(state_dir=state, servers=tuple(map(Endpoint.parse, servers)), **settings)
    status = AgentStatus("test")
    async with trio.open_nursery() as nursery:
        dialer = Dialer(nursery, AllowList(config.allow), status, dial_timeout=10, max_dials=10)
        running = Supervisor(config, dialer, status, {}, uniform=lambda _low, high: high)
        nursery.start_soon(running.run)
        running.status = status
        yield running
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("reason", "tells"),
    [
        (DrainReason.EXPIRED, True),
        (DrainReason.REVOKED, True),
        (DrainReason.DUPLICATE, False),
        (DrainReason.SHUTDOWN, False),
        (DrainReason.REPLACED, False),
    ],
)
async def test_a_certificate_that_no_server_takes_is_told(pki, server, reason, tells):
    state, told = pki.state(), []
    async with agent(state, server.endpoint) as running:
        running._on_refused = lambda *words: told.append(words)
        async with linked(server) as link:
            link.connection.drain(reason, "since yesterday")
            link.link.pump()
            with trio.fail_after(10):
                while not link.ended:
                    link.link.close("")
                    await trio.sleep(0.01)
    serial = load_credentials(state).serial
    assert told == ([(serial, "the server refuses it: since yesterday")] if tells else [])


async def test_an_alert_about_the_certificate_is_told(pki, server):
    """The server's authority is another one than the certificate's."""
    other = Pki(pki.directory, "tunnel.test")
    trusting_another = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trusting_another.load_cert_chain(pki.directory / "server.pem")
    trusting_another.load_verify_locations(cadata=other.authority.pem)
    trusting_another.verify_mode = ssl.CERT_OPTIONAL
    trusting_another.set_alpn_protocols(["tunnel/1"])
    server.context = trusting_another
    state, told = pki.state(), []
    async with agent(state, server.endpoint) as running:
        running._on_refused = lambda *words: told.append(words)
        with trio.fail_after(10):
            while not told:
                with contextlib.suppress(ssl.SSLError):
                    await server.accept()
    assert told[0][0] == load_credentials(state).serial
    assert "does not know the authority" in told[0][1]


@asynccontextmanager
async def linked(server):
    """The next link of an agent, after hello."""
    with trio.fail_after(10):
        link = await server.accept()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        with trio.fail_after(10):
            await link.link.hello_received.wait()
        yield link
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def target():
    """Something on the edge's loopback: its port, and how to get the next connection to it."""
    streams = []
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]

    async def accept() -> trio.SocketStream:
        with trio.fail_after(10):
            streams.append(await listener.accept())
        return streams[-1]

    yield listener.socket.getsockname()[1], accept
    await listener.aclose()
    for stream in streams:
        stream.socket.close()


async def until(condition) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.005)


async def test_says_hello_and_serves_streams(server, pki):
    async with agent(pki.state(servers=[server.endpoint])) as running, linked(server) as link:
        assert link.hellos[0].node == "edge-1"
        assert link.hellos[0].version == "test"
        assert running.status.server == server.endpoint
        assert running.status.linked_since is not None
        async with target() as (port, accept):
            stream = await link.open("127.0.0.1", port)
            inner = await accept()
            await stream.send_all(b"ping")
            assert await inner.receive_some(4) == b"ping"
            await inner.send_all(b"pong")
            await inner.send_eof()
            assert await stream.receive_some() == b"pong"
            assert await stream.receive_some() == b""
            await stream.send_eof()
            assert await inner.receive_some(1) == b""
        await until(lambda: running.status.streams == 0)
        assert running.status.opened == 1


async def test_refusals_reach_the_server_with_their_cause(server, pki, refusing):
    async with agent(pki.state(servers=[server.endpoint])), linked(server) as link:
        for host, port, cause in [
            ("127.0.0.1", refusing, Cause.REFUSED),
            ("10.255.255.1", 80, Cause.NOT_ALLOWED),
            ("192.168.2.143", 9081, Cause.NOT_ON_THIS_NODE),
        ]:
            with pytest.raises(OpenFailed) as caught:
                await link.open(host, port)
            assert caught.value.cause is cause
            assert host in caught.value.detail


async def test_a_reset_at_the_target_is_a_reset_at_the_server(server, pki):
    state = pki.state(servers=[server.endpoint])
    async with agent(state), linked(server) as link, target() as (port, accept):
        stream = await link.open("127.0.0.1", port)
        close_with_reset(from_trio((await accept()).socket))
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(5):
            await stream.receive_some()


async def test_a_dial_that_the_server_gives_up_ends(server, pki, black_hole):
    async with agent(pki.state(servers=[server.endpoint])) as running, linked(server) as link:
        with trio.move_on_after(0.1):
            await link.open("127.0.0.1", black_hole)
        await until(lambda: running.status.dialling == 0)


async def test_comes_back_with_the_same_session(server, pki, caplog):
    async with agent(pki.state(servers=[server.endpoint])) as running:
        async with linked(server) as link:
            first = link.hellos[0].session
            link.link.close("enough")
            await until(lambda: running.status.linked_since is None)
        async with linked(server) as link:
            assert link.hellos[0].session == first
            assert running.status.links == 2
    assert f"{server.endpoint}: the link ended after 0 s" in caplog.text
    assert first not in caplog.text


def parts_of_its_links() -> Counter[type]:
    """What is in memory of an agent's, not of a server's. (Compiled classes know no weak references.)"""
    return Counter(
        type(each)
        for each in gc.get_objects()
        if type(each) in (OutboundLink, AnswererConnection)
        or (type(each) is Link and type(each.connection) is AnswererConnection)
        or (type(each) is TlsPump and not each.server_side)
    )


@pytest.mark.parametrize("how", ["closed", "cut"])
async def test_an_ended_link_leaves_nothing_to_collect(server, pki, how):
    """A loose cable ends many before a collector comes by: an agent held 20 MiB of them."""
    server.grace = 90
    async with agent(pki.state(servers=[server.endpoint])) as running:
        gc.collect()
        gc.disable()
        try:
            async with linked(server) as link:
                made = parts_of_its_links()
                assert set(made.values()) == {1}
                assert len(made) == 4
                if how == "closed":
                    link.link.close("enough")
                else:
                    link.sock.shutdown(socket.SHUT_RDWR)
                await until(lambda: running.status.linked_since is None)
            async with linked(server):
                await until(lambda: running.status.linked_since is not None)
                await until(lambda: parts_of_its_links() == made)
        finally:
            gc.enable()


async def test_another_process_is_another_session(server, pki):
    state, sessions = pki.state(servers=[server.endpoint]), []
    for _ in range(2):
        async with agent(state), linked(server) as link:
            sessions.append(link.hellos[0].session)
    assert sessions[0] != sessions[1]


async def test_a_cut_link_takes_its_connections_with_it_by_reset(server, pki):
    async with agent(pki.state(servers=[server.endpoint])) as running:
        async with target() as (port, accept), linked(server) as link:
            await link.open("127.0.0.1", port)
            inner = await accept()
            link.sock.shutdown(socket.SHUT_RDWR)
            with pytest.raises(trio.BrokenResourceError), trio.fail_after(5):
                await inner.receive_some()
        await until(lambda: running.status.streams == 0)


async def test_starts_without_any_network_and_links_when_there_is_one(pki, server, refusing, caplog):
    state = pki.state(servers=[f"127.0.0.1:{refusing}"])
    async with agent(state) as running:
        await until(lambda: running.status.last_failure)
        assert "Connection refused" in running.status.last_failure
        # The operator, or renewal, names another server.
        details = (state / "agent.json").read_text().replace(f"127.0.0.1:{refusing}", server.endpoint)
        (state / "agent.json").write_text(details)
        async with linked(server):
            assert running.status.linked_since is not None
    assert caplog.text.count("Connection refused") == 1


@pytest.mark.parametrize("told", ["", "none"])
async def test_the_proxy_that_joining_went_through_is_used_unless_told_otherwise(pki, server, told):
    heads = []
    async with listening(connecting(heads, b"user:secret")) as port:
        state = pki.state(servers=[server.endpoint], proxy=f"http://user:secret@127.0.0.1:{port}")
        async with agent(state, proxy=ProxyChoice(told)), linked(server):
            assert bool(heads) == (told == "")


async def test_servers_are_tried_in_turn(pki, server, refusing):
    state = pki.state(servers=["192.0.2.1:1"])
    async with agent(state, f"127.0.0.1:{refusing}", server.endpoint) as running, linked(server):
        assert running.status.server == server.endpoint


async def test_a_server_that_is_of_no_use_hides_no_other(pki, server):
    useless = type(server)(pki.server_context())
    await useless.listen()
    state = pki.state(servers=[useless.endpoint, server.endpoint])
    # With a pause before each round that no test outlives: the second server comes in the same round.
    async with agent(state, backoff_min=1e6, backoff_max=1e6) as running:
        with trio.fail_after(10):
            silent = await useless.accept()
        silent.sock.close()
        async with linked(server):
            assert running.status.server == server.endpoint
    useless.close()


async def test_a_broken_state_directory_is_retried(server, pki, caplog):
    state = pki.state(servers=[server.endpoint])
    (state / "node.key").chmod(0o644)
    async with agent(state) as running:
        await until(lambda: running.status.last_failure)
        assert "can be read by others" in running.status.last_failure
        (state / "node.key").chmod(0o600)
        async with linked(server):
            pass
    assert caplog.text.count("can be read by others") == 1


async def test_a_wrong_clock_is_named_and_tried_nevertheless(server, pki, monkeypatch, caplog):
    class Time:
        @staticmethod
        def time():
            return 5.0

    monkeypatch.setattr(supervisor_module, "time", Time)
    async with agent(pki.state(servers=[server.endpoint])), linked(server):
        pass
    assert "the clock of this machine says 1970-01-01 00:00:05 UTC" in caplog.text


async def waits(server, clock, seconds: float) -> bool:
    """Whether the agent's next dial comes after just so many seconds; its link is left to the fixture."""
    accepted = []

    async def accept() -> None:
        accepted.append(await server.accept())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        await settle()
        clock.jump(seconds - 0.01)
        await settle()
        early = bool(accepted)
        clock.jump(0.02)
        await settle()
        nursery.cancel_scope.cancel()
    return bool(accepted) and not early


async def settle() -> None:
    """Let everybody do what can be done without time passing."""
    await trio.testing.wait_all_tasks_blocked(0.02)


async def carried(link, clock, seconds: float, drain: DrainReason | None = None) -> None:
    """Carry a link for so long; then the server ends it."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await link.link.hello_received.wait()
        if drain is not None:
            link.connection.drain(drain, "the other one is at 198.51.100.7")
            link.link.pump()
        await settle()
        for _ in range(int(seconds)):
            clock.jump(1.03)
            await settle()
        link.link.close("enough")


async def test_a_duplicate_is_loud_and_waits_long(server, pki, caplog, mock_clock):
    async with agent(pki.state(servers=[server.endpoint]), backoff_min=1, backoff_max=60):
        await carried(await server.accept(), mock_clock, 0, DrainReason.DUPLICATE)
        assert await waits(server, mock_clock, 60 + 1)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "another machine is linked with the certificate of edge-1 (the other one is at 198.51.100.7)" in (
        record.getMessage()
    )


async def test_backoff_grows_and_is_reset_only_by_a_useful_link(server, pki, mock_clock):
    state = pki.state(servers=[server.endpoint])
    async with agent(state, backoff_min=1, backoff_max=60, useful_after=10):
        link = await server.accept()
        for lived, delay in ((0, 1), (0, 2), (5, 4), (11, 1), (0, 2)):
            await carried(link, mock_clock, lived)
            assert await waits(server, mock_clock, delay)
            link = server.links[-1]


async def test_a_shutdown_is_an_ordinary_reconnect(server, pki, caplog):
    caplog.set_level(logging.INFO)
    async with agent(pki.state(servers=[server.endpoint])):
        async with linked(server) as link:
            link.connection.drain(DrainReason.SHUTDOWN, "an update")
            link.link.pump()
            await until(lambda: "retires this link: shutdown (an update)" in caplog.text)
            link.link.close("bye")
        async with linked(server):
            pass
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_server_that_refuses_the_certificate_is_explained(server, pki, tmp_path, caplog):
    """TLS 1.3 shows a refusal only on the first read of the new link."""
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    stranger = type(pki)(directory)
    server.context.load_verify_locations(cadata=pki.authority.pem)
    state = stranger.state(servers=[server.endpoint])
    # The agent trusts the server's authority, but brings a certificate of its own one.
    bundle = state / "ca.crt"
    bundle.write_bytes(bundle.read_bytes() + pki.authority.pem.encode())
    async with agent(state) as running, trio.open_nursery() as nursery:

        async def serve() -> None:
            while True:
                with pytest.raises((OSError, trio.BrokenResourceError)):
                    await server.accept()

        nursery.start_soon(serve)
        await until(lambda: running.status.last_failure)
        nursery.cancel_scope.cancel()
    assert "other authority" in caplog.text or "does not know the authority" in caplog.text


async def test_who_waits_dials_at_once_when_the_servers_change(server, pki, refusing):
    state, never = pki.state(), 1e6
    async with agent(state, f"127.0.0.1:{refusing}", backoff_min=never, backoff_max=never) as running:
        await until(lambda: running.status.last_failure)
        await trio.testing.wait_all_tasks_blocked()
        config, running.status.last_failure = dataclasses.replace(running._config, log_level="debug"), ""
        running.configure(config)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert running.status.last_failure == "", "nothing of this is a reason to dial"
        running.configure(dataclasses.replace(config, servers=(Endpoint.parse(server.endpoint),)))
        async with linked(server):
            assert running.status.server == server.endpoint


async def test_who_waits_dials_at_once_with_another_certificate(server, pki, mock_clock):
    """One that was refused for good waits long, and another in its place is no reason to."""
    async with agent(pki.state(servers=[server.endpoint]), backoff_min=1, backoff_max=60) as running:
        await carried(await server.accept(), mock_clock, 0, DrainReason.REVOKED)
        await settle()
        running.renewed()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.accept)
            for _ in range(50):  # the clock stands still
                await settle()
                if len(server.links) > 1:
                    break
            nursery.cancel_scope.cancel()
        assert len(server.links) > 1


async def test_a_link_stays_when_the_settings_change_and_the_next_dial_obeys(server, pki):
    other = type(server)(pki.server_context())
    await other.listen()
    async with agent(pki.state(), server.endpoint) as running, linked(server) as link:
        changed = dataclasses.replace(
            running._config, servers=(Endpoint.parse(other.endpoint),), memory_budget=1 << 22
        )
        running.configure(changed)
        assert running._session.budget.total == 1 << 22
        await trio.testing.wait_all_tasks_blocked()
        assert running.status.linked_since is not None
        link.link.close("enough")
        async with linked(other):
            assert running.status.server == other.endpoint
    other.close()


async def test_a_change_while_linked_is_no_reason_to_come_back_without_a_delay(server, pki):
    async with agent(pki.state(), server.endpoint, backoff_min=0.01, backoff_max=0.01) as running:
        async with linked(server) as link:
            running.configure(dataclasses.replace(running._config, backoff_min=1e6, backoff_max=1e6))
            link.link.close("enough")
            await until(lambda: running.status.linked_since is None)
        with trio.move_on_after(0.2) as waited:
            await server.listener.accept()
        assert waited.cancelled_caught


async def test_a_server_that_goes_is_followed_before_its_link_ends(server, pki, mock_clock):
    """Its streams go on there, and what is new goes to the next one."""
    state = pki.state(servers=[server.endpoint])
    async with agent(state, useful_after=10), target() as (port, accept), linked(server) as former:
        stream = await former.open("127.0.0.1", port)
        inner = await accept()
        mock_clock.jump(11)
        former.connection.drain(DrainReason.SHUTDOWN, "it stops")
        former.link.pump()
        async with linked(server) as newer:  # at once: no time passes
            assert newer.hellos[0].session == former.hellos[0].session
            assert newer.hellos[0].link != former.hellos[0].link
            await stream.send_all(b"ping")
            assert await inner.receive_some(4) == b"ping"
            for _ in range(8):
                mock_clock.jump(1.01)
                await settle()
            assert not former.link.ended
            await stream.send_eof()
            await inner.aclose()
            assert await stream.receive_some() == b""
            while not former.link.ended:
                mock_clock.jump(1.01)
                await settle()
            assert not newer.link.ended


async def test_a_server_that_sends_everybody_away_is_not_dialled_without_pause(server, pki, mock_clock):
    state = pki.state(servers=[server.endpoint])
    async with agent(state, backoff_min=1, backoff_max=60, useful_after=10):
        link = await server.accept()
        for delay in (1, 2, 4):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.run)
                await link.link.hello_received.wait()
                link.connection.drain(DrainReason.SHUTDOWN, "it stops")
                link.link.pump()
                await settle()
                assert await waits(server, mock_clock, delay)
                link.link.close("gone")
            link = server.links[-1]
