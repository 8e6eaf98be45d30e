"""A server's identities and a real agent over links, while certificates, roots, servers and rights change."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import trio

from certs.backup import make_backup, read_backup, restore_backup
from certs.files import StateDirectory
from certs.roll import Phase, Roll, RollError
from tests.tunnel_server.identified import Identified, identified, prepare
from tunnel_agent import supervisor as supervisor_module
from tunnel_agent.allow_list import AllowList
from tunnel_agent.config import AgentConfig
from tunnel_agent.credentials import load_credentials
from tunnel_agent.dialer import Dialer
from tunnel_agent.join import JoinError, join
from tunnel_agent.proxy import ProxyChoice
from tunnel_agent.renewal import EARLIEST, LATEST, Renewal
from tunnel_agent.status import AgentStatus
from tunnel_agent.supervisor import Supervisor
from tunnelctl.cli import main as tunnelctl

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds or minutes in earnest; and children import what the tests do."""
    monkeypatch.setattr(supervisor_module, "_HANDOVER", 0.1)
    monkeypatch.setattr(supervisor_module, "_IDLE_CHECK", 0.05)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")


async def joined(server: Identified, path: Path, node: str = "edge-1", **options: object) -> Path:
    token, ca_hash = server.join_line(node, life=DAY)
    await trio.to_thread.run_sync(
        lambda: join([server.endpoint], token, ca_hash, state_dir=path, proxy="none", **options)  # type: ignore[arg-type]
    )
    return path


@asynccontextmanager
async def agent(path: Path, *, look_every: float = 3600.0, share: float = 0.99) -> AsyncIterator[AgentStatus]:
    """An agent as its service runs it, which renews after that share of its certificate's life."""
    config = AgentConfig(
        state_dir=path, proxy=ProxyChoice("none"), backoff_min=0.1, backoff_max=0.1, duplicate_delay=1,
        refresh_interval=look_every,
    )  # fmt: skip
    status = AgentStatus("test")
    async with trio.open_nursery() as nursery:
        dialer = Dialer(nursery, AllowList(config.allow), status, dial_timeout=5, max_dials=8)
        supervisor = Supervisor(config, dialer, status, {}, uniform=lambda _low, high: high)
        renewal = Renewal(
            config,
            status,
            on_renewed=supervisor.renewed,
            uniform=lambda low, high: share if (low, high) == (EARLIEST, LATEST) else high,
        )
        nursery.start_soon(supervisor.run)
        nursery.start_soon(renewal.run)
        yield status
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.05)


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    async def handle(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async for data in stream:
                await stream.send_all(data)
            await stream.send_eof()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            lambda task_status: trio.serve_tcp(handle, 0, host="127.0.0.1", task_status=task_status)
        )
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


class Transfer:
    """Bytes through the tunnel and back, for as long as it is wanted; none may be lost, or changed."""

    def __init__(self) -> None:
        self.sent, self.received = hashlib.sha256(), hashlib.sha256()
        self.bytes = 0
        self.stop = False
        self.over = trio.Event()

    async def run(self, server: Identified, node: str, port: int) -> None:
        stream = await server.open(node, port)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, stream)
            async for data in stream:
                self.received.update(data)
                self.bytes += len(data)
        self.over.set()

    async def _send(self, stream: trio.abc.HalfCloseableStream) -> None:
        piece = random.randbytes(64 * 1024)
        while not self.stop:
            self.sent.update(piece)
            await stream.send_all(piece)
            await trio.sleep(0.002)
        await stream.send_eof()

    async def finish(self) -> None:
        self.stop = True
        with trio.fail_after(10):
            await self.over.wait()
        assert self.sent.digest() == self.received.digest()

    async def goes_on(self) -> None:
        before = self.bytes
        await until(lambda: self.bytes > before + 1_000_000)


def serial(path: Path) -> str:
    done = subprocess.run(
        ["openssl", "x509", "-noout", "-serial", "-in", path / "node.crt"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip().partition("=")[2].lower().lstrip("0")


async def test_a_certificate_is_renewed_under_a_running_transfer(tmp_path: Path) -> None:
    prepare(tmp_path / "server")
    async with echo() as port, identified(tmp_path / "server", node_life=timedelta(seconds=3600)) as server:
        state = await joined(server, tmp_path / "agent")
        first = serial(state)
        key = (state / "node.key").read_bytes()
        server.renewals.node_life = 90 * DAY
        async with agent(state, share=2 / 3600), trio.open_nursery() as nursery:
            await server.until_linked("edge-1", 0)
            transfer = Transfer()
            nursery.start_soon(transfer.run, server, "edge-1", port)
            await transfer.goes_on()
            await server.until_linked("edge-1", 0, 1)
            assert serial(state) != first
            assert (state / "node.key").read_bytes() != key
            await transfer.goes_on()
            # New streams are on the new link, so the old one may go when the transfer has ended.
            stream = await server.open("edge-1", port)
            held = server.registry.nodes["edge-1"].agent
            assert held is not None
            assert stream._stream.connection is held.links[1].connection
            assert server.links("edge-1") == [0, 1]
            await transfer.finish()
            await server.until_linked("edge-1", 1)
            await stream.send_all(b"still")
            assert await stream.receive_some() == b"still"
            await stream.aclose()
    assert load_credentials(state).not_after - load_credentials(state).not_before > 89 * 86400


async def test_the_authority_is_rolled_under_a_running_transfer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tunnel_server.acceptance._ROLL_GRACE", 0.5)
    directory = tmp_path / "server"
    prepare(directory)
    async with echo() as port, identified(directory) as server, trio.open_nursery() as nursery:
        state = await joined(server, tmp_path / "agent")
        late = await joined(server, tmp_path / "late", "edge-2")
        roll = Roll(server.state)
        async with agent(state, look_every=0.3), agent(late):  # which does not look until all is over
            await server.until_linked("edge-1", 0)
            await server.until_linked("edge-2", 0)
            transfer = Transfer()
            nursery.start_soon(transfer.run, server, "edge-1", port)
            await transfer.goes_on()
            old = server.enrolment.authority.hash
            assert roll.start().phase is Phase.DISTRIBUTING
            await until_ready(roll, "edge-2")
            with pytest.raises(RollError, match="node edge-2 do not trust the new root yet"):
                roll.switch()
            assert tunnelctl(["ca", "roll", "switch", "--force", "--state-dir", str(directory)]) == 0
            await until_ready(roll, "edge-2")
            await transfer.goes_on()
            # The server has issued the new certificate; the agent's link with it follows.
            await until(lambda: len(server.links("edge-1")) == 2)
            assert server.links("edge-1")[0] == 0
            assert tunnelctl(["ca", "roll", "finish", "--state-dir", str(directory)]) == 4
            assert roll.finish(force=True).phase is Phase.NONE
            await until(lambda: len(server.identity.authority.roots) == 1)
            assert server.enrolment.authority.hash != old
            await until(lambda: (state / "ca.crt").read_text() == server.identity.authority.pem)
            # Of the links of the old root, only the one ends that has none of the new one beside it.
            await server.until_linked("edge-2")
            assert "the certificate of edge-2 is of a root that is trusted no longer" in caplog.text
            await transfer.goes_on()
            assert server.links("edge-1") == [0, 1]
            assert "the certificate of edge-1" not in caplog.text
            await transfer.finish()
            # What joins now is of the new root alone, and so is who shows what.
            await joined(server, tmp_path / "third", "edge-3")
            verified = subprocess.run(
                [
                    "openssl",
                    "verify",
                    "-CAfile",
                    state / "ca.crt",
                    state / "node.crt",
                    tmp_path / "third" / "node.crt",
                ],
                capture_output=True,
                check=False,
            )
            assert verified.returncode == 0, verified.stderr
        # A new link with the new certificate, after all.
        await until(lambda: not server.links("edge-1"))
        async with agent(state):
            await server.until_linked("edge-1", 0)


async def until_ready(roll: Roll, *but: str) -> None:
    await until(lambda: roll.status().nodes == but)


async def test_a_revoked_node_is_cut_at_once_and_comes_back_with_a_new_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "server"
    prepare(directory)
    async with echo() as port, identified(directory) as server:
        state = await joined(server, tmp_path / "agent")
        other = await joined(server, tmp_path / "other", "edge-2")
        early, _ = server.join_line("edge-1", life=DAY)
        async with agent(state) as status, agent(other):
            await server.until_linked("edge-1", 0)
            await server.until_linked("edge-2", 0)
            stream, safe = await server.open("edge-1", port), await server.open("edge-2", port)
            assert tunnelctl(["revoke", "edge-1", "--reason", "stolen", "--state-dir", str(directory)]) == 0
            with pytest.raises(trio.BrokenResourceError), trio.fail_after(10):
                await stream.receive_some()
            await server.until_linked("edge-1")
            await until(lambda: "was revoked at" in caplog.text and "stolen" in caplog.text)
            # It tries again, and is told again.
            await until(lambda: "a link is refused: node edge-1 was revoked" in caplog.text)
            assert status.linked_since is None or server.links("edge-1") == []
            await safe.send_all(b"mine")
            assert await safe.receive_some() == b"mine"
            await safe.aclose()
            # What was made before is worth nothing; without --force a good-looking identity stays.
            with pytest.raises(JoinError, match="the token was revoked"):
                await rejoin(server, state, early, force=True)
            token, _ = server.join_line("edge-1", life=DAY)
            with pytest.raises(JoinError, match="joined already"):
                await rejoin(server, state, token)
            await rejoin(server, state, token, force=True)
            await server.until_linked("edge-1", 0)
    # It survives a restart, and does not meet the certificate that came later.
    async with identified(directory, port=server.port) as again, agent(state):
        assert [each.value for each in again.identity.revocations._list] == ["edge-1"]
        await again.until_linked("edge-1", 0)


async def rejoin(server: Identified, state: Path, token: str, *, force: bool = False) -> None:
    ca_hash = server.enrolment.authority.hash
    await trio.to_thread.run_sync(
        lambda: join([server.endpoint], token, ca_hash, state_dir=state, proxy="none", force=force)
    )


async def test_one_certificate_is_revoked_by_its_serial(tmp_path: Path) -> None:
    directory = tmp_path / "server"
    prepare(directory)
    async with identified(directory) as server:
        state = await joined(server, tmp_path / "agent")
        async with agent(state):
            await server.until_linked("edge-1", 0)
            assert (
                tunnelctl(["revoke", "--serial", serial(state).upper(), "--state-dir", str(directory)]) == 0
            )
            await server.until_linked("edge-1")
            assert (
                tunnelctl(["revoke", "--undo", "--serial", serial(state), "--state-dir", str(directory)]) == 0
            )
            await server.until_linked("edge-1", 0)


async def test_a_server_is_restored_on_another_host(tmp_path: Path) -> None:
    prepare(tmp_path / "old")
    async with identified(tmp_path / "old") as server:
        state = await joined(server, tmp_path / "agent")
        data = make_backup(server.state, b"correct horse battery")
        port = server.port
    async with agent(state), echo() as target:
        restore_backup(read_backup(data, b"correct horse battery"), StateDirectory.create(tmp_path / "new"))
        async with identified(tmp_path / "new", port=port) as server:
            await server.until_linked("edge-1", 0)
            stream = await server.open("edge-1", target)
            await stream.send_all(b"here")
            assert await stream.receive_some() == b"here"
            await stream.aclose()
            await joined(server, tmp_path / "second", "edge-2")


async def test_an_expired_agent_is_told_by_both_clocks_and_joins_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare(tmp_path / "server")
    async with identified(tmp_path / "server", node_life=timedelta(seconds=2)) as server:
        state = await joined(server, tmp_path / "agent")
        async with agent(state, share=2.0):
            await server.until_linked("edge-1", 0)
            await until(lambda: "a link is refused: the certificate of edge-1 expired at" in caplog.text)
            told = "not valid by the server's clock (the certificate of edge-1 expired at"
            await until(
                lambda: any(told in r.getMessage() for r in caplog.records if r.levelno == logging.ERROR)
            )
            key = (state / "node.key").read_bytes()
            token, _ = server.join_line("edge-1", life=DAY)
            with pytest.raises(JoinError):
                await rejoin(server, state, "0" * 8 + "." + "A" * 43)
            assert (state / "node.key").read_bytes() == key
            server.enrolment._node_life = DAY
            await rejoin(server, state, token)  # without --force
            await server.until_linked("edge-1", 0)


async def test_a_clock_that_is_behind_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prepare(tmp_path / "server")
    async with identified(tmp_path / "server") as server:
        ahead = server.enrolment._clock() + DAY
        server.enrolment._clock = lambda: ahead
        state = await joined(server, tmp_path / "agent")
        async with agent(state):
            await until(lambda: "a link is refused: the certificate of edge-1 is valid from" in caplog.text)
            assert "only, and the server's clock says" in caplog.text
            assert server.links("edge-1") == []


async def test_servers_can_move(tmp_path: Path) -> None:
    prepare(tmp_path / "server")
    async with identified(tmp_path / "server") as server:
        state = await joined(server, tmp_path / "agent")
        old = server.endpoint
        async with agent(state, look_every=0.2):
            await server.until_linked("edge-1", 0)
            server.servers[:] = ["127.0.0.1:1"]
            await until(
                lambda: [str(each) for each in load_credentials(state).servers] == ["127.0.0.1:1", old]
            )
            server.servers[:] = ["127.0.0.1:1", old]
            await until(
                lambda: [str(each) for each in load_credentials(state).servers] == [old, "127.0.0.1:1"]
            )


async def test_the_server_shows_a_new_certificate_without_a_restart(tmp_path: Path) -> None:
    prepare(tmp_path / "server")
    async with echo() as port, identified(tmp_path / "server") as server:
        state = await joined(server, tmp_path / "agent")
        async with agent(state):
            await server.until_linked("edge-1", 0)
            stream = await server.open("edge-1", port)
            command = [
                "init",
                "--cert-dns-names",
                "tunnel.example.org",
                "--state-dir",
                str(tmp_path / "server"),
            ]
            assert tunnelctl(command) == 0

            def shown() -> str:
                done = subprocess.run(
                    ["openssl", "s_client", "-connect", server.endpoint, "-servername", "x", "-showcerts"],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    check=False,
                )
                text = subprocess.run(
                    ["openssl", "x509", "-noout", "-ext", "subjectAltName"],
                    input=done.stdout,
                    capture_output=True,
                    check=False,
                )
                return text.stdout.decode()

            with trio.fail_after(10):
                while "DNS:tunnel.example.org" not in await trio.to_thread.run_sync(shown):
                    await trio.sleep(0.1)
            await stream.send_all(b"undisturbed")
            assert await stream.receive_some() == b"undisturbed"
            await stream.aclose()
