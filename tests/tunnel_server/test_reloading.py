"""The configuration taken again: whole or not at all, by itself when its file changes, and told."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tunnel_daemon.program import ProgramError
from tunnel_server.config import ServerConfig, load_config
from tunnel_server.intercept.config import InterceptUnavailable
from tunnel_server.limits import ServerLimits
from tunnel_server.reloading import Reloader, Source


class Server:
    """Takes what it is given, or refuses it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.taken: list[ServerConfig] = []
        self.refusal: Exception | None = None
        self.reads = 0
        self.reloader = Reloader(self.read(), Source(path, self.read), self.apply)

    def read(self) -> ServerConfig:
        self.reads += 1
        return load_config(self.path)

    async def apply(self, config: ServerConfig) -> None:
        if self.refusal:
            raise self.refusal
        self.taken.append(config)

    def write(self, text: str) -> None:
        """As an editor does: another file in its place."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(self.path)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    path = tmp_path / "server.toml"
    path.write_text("")
    return Server(path)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


async def test_changes_are_applied_and_told(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    server.write("http-proxy-ports = '80'\n[limits]\naway-wait = '1s'\n[callers.prom]\nnodes = 'a'\n")
    await server.reloader.reload()
    (taken,) = server.taken
    assert (taken.http_proxy_ports, taken.limits.away_wait, list(taken.callers)) == ("80", 1.0, ["prom"])
    assert server.reloader.config == taken
    *settings, caller = messages(caplog)
    assert settings == [
        'configuration: http-proxy-ports: "" -> "80"',
        'configuration: limits.away-wait: "5s" -> "1s"',
    ]
    assert caller.startswith(
        'configuration: callers.prom: (none) -> {nodes = ["a"], ports = [], direct = false'
    )


async def test_nothing_is_applied_where_nothing_changes(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    server.write("# only a remark\n")
    await server.reloader.reload()
    assert server.taken == []
    assert messages(caplog) == ["configuration read: nothing changes"]


async def test_what_needs_a_restart_stays_and_is_named(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.write("tunnel-port = 1\nhttp-proxy-ports = '80'\n[limits]\nstreams-per-session = 5\n")
    await server.reloader.reload()
    assert server.taken == [ServerConfig(http_proxy_ports="80")]
    assert messages(caplog) == [
        "configuration: tunnel-port: 10262 -> 1 needs a restart; until then it stays 10262",
        "configuration: limits.streams-per-session: 10000 -> 5 needs a restart; until then it stays 10000",
    ]


@pytest.mark.parametrize(
    "refusal", [ProgramError("the port is taken"), InterceptUnavailable("the port is taken")]
)
async def test_what_cannot_be_had_changes_nothing(
    server: Server, refusal: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    server.refusal = refusal
    server.write("http-proxy-ports = '80'\n")
    await server.reloader.reload()
    assert server.reloader.config == ServerConfig()
    assert server.reloader.problems == ("the port is taken",)
    assert messages(caplog) == ["the configuration stays as it was: the port is taken"]
    server.refusal = None
    await server.reloader.reload()
    assert server.reloader.problems == ()
    assert server.reloader.config == ServerConfig(http_proxy_ports="80")


async def test_every_mistake_is_told(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.write("http-proxy-ports = '80'\ntunnel-port = 'x'\nlog-levle = 1\n")
    await server.reloader.reload()
    assert server.taken == []
    assert len(server.reloader.problems) == 2
    assert all(each.startswith("the configuration stays as it was: ") for each in messages(caplog))
    assert len(messages(caplog)) == 2


async def test_a_defect_ends_nothing(server: Server) -> None:
    server.refusal = RuntimeError("a defect")
    server.write("http-proxy-ports = '80'\n")
    await server.reloader.reload()
    assert server.reloader.problems == ("internal error; the log has more",)
    assert server.reloader.config == ServerConfig()


async def watching(
    server: Server, autojump_clock: MockClock, act: Callable[[], None], seconds: float
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.reloader.watch)
        await trio.sleep(5)
        act()
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()


async def test_the_file_is_watched(server: Server, autojump_clock: MockClock) -> None:
    await watching(server, autojump_clock, lambda: server.write("http-proxy-ports = '80'\n"), 3)
    assert server.reloader.config.http_proxy_ports == "80"
    assert server.reads == 2


async def test_a_file_that_is_still_being_written_is_not_read(
    server: Server, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.reloader.watch)
        for number in range(20):
            server.path.write_text("#" * number)
            os.utime(server.path, ns=(number, number))
            await trio.sleep(0.9)
        assert server.reads == 1
        server.write("http-proxy-ports = '80'\n")
        await trio.sleep(3)
        nursery.cancel_scope.cancel()
    assert server.reads == 2


async def test_a_file_that_is_gone_changes_nothing(server: Server, autojump_clock: MockClock) -> None:
    server.write("http-proxy-ports = '80'\n")
    await server.reloader.reload()
    await watching(server, autojump_clock, server.path.unlink, 3)
    for _ in range(2):
        assert server.reloader.problems == (f"{server.path} is gone",)
        assert server.reloader.config.http_proxy_ports == "80"
        await server.reloader.reload()
    await watching(server, autojump_clock, lambda: server.write("http-proxy-ports = '81'\n"), 3)
    assert server.reloader.problems == ()
    assert server.reloader.config.http_proxy_ports == "81"


def test_defaults_that_are_live_are_said_to_be() -> None:
    """A few that people will change, so that no refactoring makes them need a restart unseen."""
    from tunnel_daemon.settings_changes import applicable

    new = ServerConfig(
        http_proxy_ports="1", https_proxy_ports="2", dnat_ports_pair="3", localhost_proxy_ports="4",
        log_level="debug", limits=ServerLimits(calls=1, open_timeout=1, away_wait=1),
    )  # fmt: skip
    assert applicable(ServerConfig(), new) == new
