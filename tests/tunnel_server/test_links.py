"""Who may link, and for how long: certificates decide, and hello has to agree with them."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import trio

from certs.authority import Authority
from certs.requests import key_pem, new_key
from tests.tunnel_server.core import DOMAIN, Core, running
from tunnel_wire import frames
from tunnel_wire.flow import Budget
from tunnel_wire.limits import WireLimits
from tunnel_wire.opener import OpenerConnection
from tunnel_wire.session import Session

if TYPE_CHECKING:
    from tunnel_wire.hello import DrainReason


async def _refused(core: Core, context: object, caplog: pytest.LogCaptureFixture, why: str) -> None:
    agent = await core.agent(context)  # type: ignore[arg-type]
    await agent.wait_over()
    assert not core.registry.nodes
    assert why in caplog.text


async def test_no_certificate(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as core:
        await _refused(core, core.credentials(None, None), caplog, "no verified certificate")


@pytest.mark.parametrize("role", ["caller", "server"])
async def test_a_certificate_of_another_role(role: str, caplog: pytest.LogCaptureFixture) -> None:
    async with running() as core:
        key = new_key()
        if role == "caller":
            pem = core.authority.issue_caller(key.public_key(), "edge-1")
        else:
            pem = core.authority.issue_server(key.public_key(), "edge-1", [], ["localhost"])
        await _refused(
            core, core.credentials(pem, key_pem(key)), caplog, f"{DOMAIN}/{role}/edge-1 is no node"
        )


async def test_a_certificate_of_another_authority() -> None:
    stranger, _ = Authority.make(DOMAIN)
    async with running() as core:
        agent = await core.agent(core.node(authority=stranger))
        assert "UNKNOWN_CA" in str(await agent.wait_over())
        assert not core.registry.nodes


async def test_a_certificate_of_another_trust_domain(caplog: pytest.LogCaptureFixture) -> None:
    """Signed by the same key: two domains must not share one, but if they do, the name still counts."""
    async with running() as core:
        core.authority.domain = "elsewhere.test"
        context = core.node()
        await _refused(core, context, caplog, f"no node of spiffe://{DOMAIN}")


async def test_hello_for_another_node(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as core:
        victim = await core.agent(core.node("edge-2", ()), node="edge-2")
        await core.wait_linked("edge-2", victim.session)
        intruder = await core.agent(core.node("edge-1"), node="edge-2", session=victim.session)
        await intruder.wait_over()
        assert 'hello as "edge-2" from a link with the certificate of edge-1' in caplog.text
        assert not victim.over.is_set()
        assert "edge-1" not in core.registry.nodes


async def test_a_node_that_breaks_the_protocol_all_the_time_gets_no_more_links(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunnel_server.links._OFFENCES_AT_ONCE", 3)
    monkeypatch.setattr("tunnel_server.links._OFFENCES_A_SECOND", 0.001)
    async with running() as core:
        context = core.node()
        for _ in range(2):
            agent = await core.agent(context)
            agent.link.connection._queue(frames.frame_header(1 << 20, 0x77, 0, 0))
            agent.link.pump()
            assert "FRAME_SIZE_ERROR" in str(await agent.wait_over())
        await (await core.agent(context, node="edge-2")).wait_over()
        for _ in range(2):
            assert not (await (await core.agent(context)).wait_over()).clean
        assert (
            caplog.text.count("too many of its links have broken the protocol; `tunnelctl revoke edge-1`")
            == 1
        )
        other = await core.agent(core.node("edge-2", ()), node="edge-2")
        await core.wait_linked("edge-2", other.session)


async def test_no_hello_in_time(caplog: pytest.LogCaptureFixture) -> None:
    async with running(limits=WireLimits(hello_timeout=0.2)) as core:
        sock, _ = await core.connect(core.node())
        with sock, trio.fail_after(5):
            while True:
                await trio.lowlevel.wait_readable(sock)
                if not sock.recv(65536):
                    break
        assert "no hello from a link" in caplog.text


async def test_a_link_ends_with_its_certificate(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with running() as core:
        agent = await core.agent(core.node(life=timedelta(seconds=2)))
        await core.wait_linked("edge-1", agent.session)
        await agent.wait_over()
        ((reason, detail),) = agent.drained
        assert reason == "expired"
        assert detail.startswith("the certificate of edge-1 expired at ")
        with trio.fail_after(5):
            while core.registry.nodes["edge-1"].agent is not None:
                await trio.sleep(0.01)
        assert f"the link ended: {detail}" in caplog.text


async def test_a_long_life_is_no_trouble() -> None:
    async with running() as core:
        agent = await core.agent(core.node(life=timedelta(days=3000)))
        await core.wait_linked("edge-1", agent.session)
        assert not agent.over.is_set()


async def test_those_that_are_called_hear_first_that_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    drain = OpenerConnection.drain

    def note(self: OpenerConnection, reason: DrainReason, detail: str = "") -> None:
        told.append(self.load)
        drain(self, reason, detail)

    monkeypatch.setattr(OpenerConnection, "drain", note)
    async with running() as core:
        core.on_request = lambda stream: stream.accept()
        for number, streams in enumerate((1, 0, 3, 2)):
            name = f"edge-{number}"
            agent = await core.agent(core.node(name, ()), node=name)
            await core.wait_linked(name, agent.session)
            session = core.registry.nodes[name].agent
            assert session is not None
            for _ in range(streams):
                await session.open("127.0.0.1", 9)
        core.links.drain("the server is stopping")
    assert told == [3, 2, 1, 0]


async def test_the_server_says_that_it_goes() -> None:
    async with running() as core:
        session = Session(budget=Budget(1 << 30))
        agents = [await core.agent(session=session, index=index) for index in range(2)]
        await core.wait_linked("edge-1", session, links=2)
        core.links.drain("the server is stopping")
        with trio.fail_after(5):
            while not all(agent.drained for agent in agents):
                await trio.sleep(0.01)
        assert agents[0].drained == [("shutdown", "the server is stopping")]
