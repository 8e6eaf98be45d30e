"""How links are made while streams wait for one: tries overlap, and their server comes first."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from tests.tunnel_agent.conftest import FakeServer
from tests.tunnel_agent.paths import path_to
from tests.tunnel_agent.test_supervisor import agent, target
from tests.tunnel_wire.test_client_hello import hello
from tunnel_agent import dialling as dialling_module
from tunnel_agent import supervisor as supervisor_module
from tunnel_agent.connect import ConnectError
from tunnel_agent.credentials import CredentialsError
from tunnel_wire.hello import DrainReason
from tunnel_wire.stream_state import EndCause

DELAY = 30.0
"""Seconds: failover-delay."""


@pytest.fixture
def clock():
    """Time passes when nobody has anything to do. What is on its way over loopback is there by then."""
    return trio.testing.MockClock(autojump_threshold=0.01)


@asynccontextmanager
async def keeping(pki):
    """A server that keeps the streams of lost links, and accepts whoever comes."""
    server = FakeServer(pki.server_context(), grace=90)
    await server.listen()
    async with trio.open_nursery() as nursery:

        async def accept() -> None:
            while True:
                with suppress(OSError):
                    link = await server.accept()
                    nursery.start_soon(link.run)

        nursery.start_soon(accept)
        yield server
        nursery.cancel_scope.cancel()
    server.close()


def greeted(server) -> list:
    """The links on which the agent has answered hello."""
    return [link for link in server.links if link.hellos]


async def until(condition, patience: float) -> float:
    """Wait for it; gives the seconds that it took."""
    began = trio.current_time()
    with trio.fail_after(patience):
        while not condition():
            await trio.sleep(0.25)
    return trio.current_time() - began


@asynccontextmanager
async def one_stream(pki, *servers, **settings):
    """An agent with one stream open through the first of these servers, `paths` to all, and an echo."""
    async with target() as (port, accept), trio.open_nursery() as nursery:
        paths = [await nursery.start(_held, server) for server in servers]
        names = [path.endpoint for path in paths]
        settings = {"failover_delay": DELAY, **settings}
        async with agent(pki.state(), *names, backoff_min=20, backoff_max=20, **settings) as running:
            await until(lambda: len(greeted(servers[0])) == settings.get("links", 1), 10)
            near = await servers[0].links[0].open("127.0.0.1", port)
            far = await accept()

            async def echoes() -> bool:
                await near.send_all(b"still here")
                with trio.fail_after(10):
                    return await far.receive_some(10) == b"still here"

            assert await echoes()
            yield SimpleNamespace(
                running=running, paths=paths, near=near, far=far, echoes=echoes, port=port, accept=accept
            )
        nursery.cancel_scope.cancel()


async def _held(server, task_status) -> None:
    async with path_to(server) as path:
        task_status.started(path)
        await trio.sleep_forever()


async def test_who_has_calls_waiting_starts_a_try_each_second(pki, monkeypatch, autojump_clock):
    tries, running, most = [], 0, 0

    async def unreachable(server, proxy, credentials, patience):
        nonlocal running, most
        tries.append((round(trio.current_time(), 1), patience))
        running += 1
        most = max(most, running)
        try:
            await trio.sleep(patience)
        finally:
            running -= 1
        raise ConnectError("refused", "nobody there")

    monkeypatch.setattr(dialling_module, "connect", unreachable)
    async with agent(pki.state(), "127.0.0.1:1", backoff_min=20, backoff_max=20, connect_timeout=10) as made:
        session = made._session
        session.suspended.grace = 90
        stream = session.new_stream("127.0.0.1", 80)
        stream.suspend(trio.current_time())
        began = trio.current_time()
        await trio.sleep(12.5)
        assert [round(when - began, 1) for when, _ in tries] == list(range(13))
        # One has all the time that there is without streams that wait, and the next after it.
        assert [patience for _, patience in tries] == [10, *[3] * 9, 10, 3, 3]
        assert most == 4
        stream.lose(EndCause.EXPIRED)
        del tries[:]
        await trio.sleep(90)
        assert {patience for _, patience in tries} == {10}
        assert 2 <= len(tries) <= 4


async def test_who_has_calls_waiting_and_nothing_to_try_with_looks_each_second(
    pki, monkeypatch, autojump_clock
):
    looks = []

    def out_of_descriptors(state, **how):
        looks.append(trio.current_time())
        assert len(looks) < 50
        raise CredentialsError(f"{state}/node.key cannot be read: Too many open files")

    async with agent(pki.state(), "127.0.0.1:1", backoff_min=20, backoff_max=20) as made:
        monkeypatch.setattr(supervisor_module, "load_credentials", out_of_descriptors)
        made._session.suspended.grace = 90
        made._session.new_stream("127.0.0.1", 80).suspend(trio.current_time())
        await trio.sleep(30)
        assert 10 <= len(looks) <= 31


async def test_a_long_path_links_while_calls_wait(pki, clock):
    """Four seconds there and back: longer than most tries get."""
    async with keeping(pki) as server, one_stream(pki, server) as own:
        own.paths[0].delay = 2.0
        own.paths[0].cut()
        assert await until(lambda: len(greeted(server)) == 2, 15) > 6
        assert await own.echoes()
        # Whoever was slower is gone, and was never taken for a link.
        await trio.sleep(20)
        assert len(greeted(server)) == 2
        assert len(own.running._links) == 1
        assert all(link.ended for link in server.links if not link.hellos)


async def test_a_try_that_hears_nothing_holds_up_no_other(pki, clock):
    async with keeping(pki) as server, one_stream(pki, server) as own:
        path = own.paths[0]
        path.silent = True
        path.cut()
        await trio.sleep(20)
        path.silent = False
        assert await until(lambda: len(greeted(server)) == 2, 5) < 1.3
        assert await own.echoes()


async def test_calls_wait_for_their_server_while_another_one_answers(pki, clock, caplog):
    async with keeping(pki) as first, keeping(pki) as second, one_stream(pki, first, second) as own:
        own.paths[0].silent = True
        own.paths[0].cut()
        await trio.sleep(DELAY - 5)
        assert second.links, "nobody has looked whether it is the uplink"
        assert len(second.links) < 4
        assert not greeted(second)
        own.paths[0].silent = False
        assert await until(lambda: len(greeted(first)) == 2, 5) < 1.3
        assert await own.echoes()
        assert caplog.text.count("waits for that one") == 1


async def test_another_server_takes_over_when_theirs_seems_gone(pki, clock):
    """Longer than it is waited for: what was open is reset, and new calls come in through the other."""
    async with keeping(pki) as first, keeping(pki) as second, one_stream(pki, first, second) as own:
        own.paths[0].silent = True
        own.paths[0].cut()
        assert DELAY <= await until(lambda: greeted(second), 40) <= DELAY + 5
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(1):
            await own.far.receive_some(1)
        # It stays there.
        own.paths[0].silent = False
        await trio.sleep(30)
        assert len(greeted(first)) == 1
        assert own.running.status.server == own.paths[1].endpoint


async def test_what_many_requests_share_keeps_no_node_away(pki, clock):
    """kube-apiserver's connection to a kubelet is hardly ever closed: its server waits for 10 s."""
    async with keeping(pki) as first, keeping(pki) as second, one_stream(pki, first, second) as own:
        await own.near.aclose()
        await own.far.aclose()
        near = await first.links[0].open("127.0.0.1", own.port)
        far = await own.accept()
        await near.send_all(hello("h2"))
        assert await far.receive_some(1 << 16)
        own.paths[0].silent = True
        own.paths[0].cut()
        began = trio.current_time()
        await until(lambda: own.running.status.waiting().server, 5)
        assert own.running.status.waiting() == (1, 1, own.paths[0].endpoint)
        await until(lambda: greeted(second), 40)
        assert 9 <= trio.current_time() - began <= 13
        assert own.running.status.waiting() == (0, 0, "")


async def test_how_long_theirs_is_waited_for_changes_while_they_wait(pki, clock):
    async with keeping(pki) as first, keeping(pki) as second, one_stream(pki, first, second) as own:
        own.paths[0].silent = True
        own.paths[0].cut()
        await trio.sleep(5)
        assert not greeted(second)
        own.running.configure(replace(own.running._config, failover_delay=0.0))
        assert await until(lambda: greeted(second), 40) < 2


async def test_a_cut_of_all_ways_takes_no_patience(pki, clock):
    """The other server answers a moment sooner than theirs, but they are not given up for that."""
    async with keeping(pki) as first, keeping(pki) as second, one_stream(pki, first, second) as own:
        for path in own.paths:
            path.silent = True
        own.paths[0].cut()
        await trio.sleep(60)
        own.paths[1].silent = False
        await until(lambda: second.links, 20)
        own.paths[0].silent = False
        await until(lambda: len(greeted(first)) == 2, 5)
        assert await own.echoes()
        assert not greeted(second)


async def test_a_new_process_in_the_old_ones_place_is_taken_at_once(pki, clock):
    async with keeping(pki) as first, keeping(pki) as second, one_stream(pki, first, second) as own:
        first.instance = "0" * 32
        own.paths[0].cut()
        assert await until(lambda: len(greeted(first)) == 2, 5) < 1.3
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(1):
            await own.far.receive_some(1)


async def test_the_same_server_by_another_name_resumes(pki, clock):
    async with keeping(pki) as server, one_stream(pki, server, server) as own:
        own.paths[0].silent = True
        own.paths[0].cut()
        assert await until(lambda: len(greeted(server)) == 2, 5) < 1.3
        assert await own.echoes()
        assert own.running.status.server == own.paths[1].endpoint


async def test_without_calls_that_wait_the_next_server_is_taken(pki, clock):
    async with (
        keeping(pki) as first,
        keeping(pki) as second,
        one_stream(pki, first, second, connect_timeout=5) as own,
    ):
        await own.near.aclose()
        await own.far.aclose()
        await until(lambda: not own.running._session.streams, 5)
        own.paths[0].silent = True
        own.paths[0].cut()
        assert await until(lambda: greeted(second), 40) < 30


async def exchanged(near, far) -> None:
    """Everything has been said, and both have closed; no receipt of that has come yet."""
    await far.send_all(b"the answer")
    await far.send_eof()
    assert await near.receive_some() == b"the answer"
    assert await near.receive_some() == b""
    await near.aclose()
    assert await far.receive_some() == b""
    await far.aclose()


async def test_a_call_that_is_over_at_both_ends_holds_nobody(pki, clock, caplog):
    """Its last receipt goes down with the link: nobody waits for that."""
    async with keeping(pki) as first, keeping(pki) as second, one_stream(pki, first, second) as own:
        await exchanged(own.near, own.far)
        own.paths[0].silent = True
        own.paths[0].cut()
        assert own.running._session.streams, "its receipt has come"
        assert await until(lambda: greeted(second), 40) < 5
        assert own.running.status.waiting() == (0, 0, "")
        assert "connections that waited" not in caplog.text


async def test_who_has_ended_and_awaits_the_answer_is_waited_for(pki, clock):
    async with keeping(pki) as first, keeping(pki) as second, one_stream(pki, first, second) as own:
        await own.near.send_eof()
        assert await own.far.receive_some() == b""
        own.paths[0].silent = True
        await own.far.send_all(b"the answer")
        await own.far.aclose()
        own.paths[0].cut()
        await until(lambda: own.running._session.suspended, 5)
        assert own.running.status.waiting().streams == 1
        await trio.sleep(DELAY - 5)
        assert not greeted(second)
        own.paths[0].silent = False
        with trio.fail_after(10):
            assert await own.near.receive_some() == b"the answer"
            assert await own.near.receive_some() == b""


async def test_several_links_are_made_and_kept(pki, clock):
    async with keeping(pki) as server, one_stream(pki, server, links=3) as own:
        links = own.running._links
        assert sorted(links) == [0, 1, 2]
        assert [sorted(link.hellos[0].links) for link in server.links] == [[0], [0, 1], [0, 1, 2]]
        server.links[1].link.close("enough")
        await until(lambda: len(greeted(server)) == 4, 30)
        assert sorted(links) == [0, 1, 2]
        assert own.running.status.linked_since is not None
        assert await own.echoes()


async def test_all_links_lead_to_one_server(pki, clock):
    """While a link of theirs stands, the others are made there, or not at all."""
    async with (
        keeping(pki) as first,
        keeping(pki) as second,
        one_stream(pki, first, second, links=2, connect_timeout=5) as own,
    ):
        own.paths[0].silent = True
        first.links[1].link.close("enough")
        await trio.sleep(90)
        assert len(own.running._links) == 1
        assert await own.echoes()
        own.paths[0].silent = False
        await until(lambda: len(greeted(first)) == 3, 40)
        assert not second.links


async def test_all_links_are_made_anew_with_a_newer_certificate(pki, clock):
    async with keeping(pki) as server, one_stream(pki, server, links=2) as own:
        own.running.renewed()
        await until(lambda: len(greeted(server)) == 4, 5)
        # The former one that carries nothing goes, the other one stays with its stream.
        await until(lambda: len(own.running._links) == 3, 20)
        assert await own.echoes()
        await own.near.aclose()
        await own.far.aclose()
        await until(lambda: len(own.running._links) == 2, 20)
        assert [link.link.ended for link in server.links] == [True, True, False, False]


async def test_a_server_that_allows_fewer_links_is_not_dialled_on_and_on(pki, clock):
    async with keeping(pki) as server, one_stream(pki, server, links=2) as own:
        for count in (2, 3):
            server.links[-1].connection.drain(DrainReason.REPLACED, "edge-1 has 1 links already")
            server.links[-1].link.close("too many")
            await trio.sleep(15)
            assert len(server.links) == count
            await until(lambda: len(greeted(server)) > len(server.links) - 1 >= 2, 40)
            await trio.sleep(10)
        assert not server.links[0].link.ended
        assert await own.echoes()


async def test_all_links_follow_a_server_that_starts_anew(pki, clock):
    async with keeping(pki) as server, one_stream(pki, server, links=2) as own:
        server.instance = "0" * 32
        own.paths[0].cut()
        await until(lambda: len(greeted(server)) == 4, 30)
        assert len(own.running._links) == 2
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(1):
            await own.far.receive_some(1)


async def test_all_links_go_elsewhere_before_their_server_goes(pki, clock):
    async with (
        keeping(pki) as first,
        keeping(pki) as second,
        one_stream(pki, first, second, links=2, connect_timeout=5) as own,
    ):
        await trio.sleep(2)
        own.paths[0].silent = True
        for link in first.links:
            link.connection.drain(DrainReason.SHUTDOWN, "it stops")
            link.link.pump()
        await until(lambda: len(greeted(second)) == 2, 10)
        # What is open goes on where it is; the other link has nothing to stay for.
        assert await own.echoes()
        await until(lambda: [link.link.ended for link in first.links].count(True) == 1, 20)
        assert await own.echoes()
