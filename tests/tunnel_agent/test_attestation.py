"""When an agent asks for an identity, and when it does not."""

import dataclasses
import itertools
import os
import signal
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from certs.authority import Authority
from tests.tunnel_agent.vouching import in_a_cluster
from tunnel_agent import attestation as attestation_module
from tunnel_agent.apart import ApartError
from tunnel_agent.attestation import Attestation
from tunnel_agent.config import AgentConfig
from tunnel_agent.credentials import load_credentials
from tunnel_agent.endpoint import Endpoint
from tunnel_agent.proxy import ProxyChoice
from tunnel_agent.status import AgentStatus

DAY = 86400.0


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch):
    monkeypatch.setattr(attestation_module, "_LOOK_EVERY", 0.02)
    monkeypatch.setattr(attestation_module, "_PAUSE", 0.0)


class Asked:
    """Stands for the process that asks: writes what the test wants, or fails."""

    def __init__(self, give):
        self.give = give
        self.settings = []
        self.failure = None

    async def __call__(self, module, settings):
        assert module == "tunnel_agent.attest"
        self.settings.append(settings)
        if self.failure:
            raise self.failure
        self.give()
        return {"server": "s:1", "node": settings["node"]}


class Watching:
    """An attestation that runs, and what has become of it."""

    def __init__(self, attestation, asked, status):
        self.attestation = attestation
        self.asked = asked
        self.status = status
        self.given = 0

    def got(self):
        self.given += 1

    async def until(self, condition):
        with trio.fail_after(10):
            while not condition():
                await trio.sleep(0.005)

    async def stays(self, tries):
        """However long one waits, nobody asks again."""
        await trio.sleep(0.2)
        assert len(self.asked.settings) == tries


@pytest.fixture
def watching(pki, tmp_path, monkeypatch):
    @asynccontextmanager
    async def run(state=None, *, clock=time.time, **changed):
        path = state or tmp_path / "new"
        (tmp_path / "mounted.crt").write_text(pki.authority.pem)

        def give():
            made = pki.state(f"made-{len(asked.settings)}", addresses=())
            path.mkdir(mode=0o700, exist_ok=True)
            for file in made.iterdir():
                (path / file.name).unlink(missing_ok=True)
                os.link(file, path / file.name)

        asked = Asked(give)
        monkeypatch.setattr(attestation_module, "run_apart", asked)
        config = AgentConfig(
            **{
                "state_dir": path,
                "servers": (Endpoint.parse("s:1"),),
                "proxy": ProxyChoice("none"),
                "service_account_token": tmp_path / "token",
                "ca_file": tmp_path / "mounted.crt",
                "node_name": "edge-1",
                "backoff_min": 0.01,
                "backoff_max": 0.02,
                **changed,
            }
        )
        status = AgentStatus("test")
        attestation = Attestation(
            config, status, uniform=lambda _low, high: high, clock=clock, known=lambda: {"s": ["127.0.0.7"]}
        )
        watched = Watching(attestation, asked, status)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attestation.run, watched.got)
            yield watched
            nursery.cancel_scope.cancel()

    return run


async def test_without_an_identity_one_is_asked_for(watching, tmp_path):
    async with watching() as watched:
        with trio.fail_after(10):
            await watched.attestation.ready.wait()
        await watched.stays(1)
    assert watched.given == 1
    (settings,) = watched.asked.settings
    assert settings == {
        "state_dir": str(tmp_path / "new"),
        "servers": ["s:1"],
        "proxy": "none",
        "timeout": 15.0,
        "node": "edge-1",
        "token_file": str(tmp_path / "token"),
        "ca_file": str(tmp_path / "mounted.crt"),
        "known": {"s": ["127.0.0.7"]},
    }


async def test_with_one_nothing_is_needed(watching, pki, tmp_path):
    """No token file is there, and the CA file is gone too."""
    async with watching(pki.state(), ca_file=tmp_path / "nowhere") as watched:
        with trio.fail_after(10):
            await watched.attestation.ready.wait()
        await watched.stays(0)
    assert watched.given == 0


async def test_it_is_asked_until_it_is_had(watching, caplog):
    async with watching() as watched:
        watched.asked.failure = ApartError("s:1: Connection refused")
        await watched.until(lambda: len(watched.asked.settings) >= 3)
        assert not watched.attestation.ready.is_set()
        assert watched.status.last_failure == "no certificate could be had: s:1: Connection refused"
        watched.asked.failure = ApartError("s:1 refused: no", "token-refused")
        await watched.until(lambda: "refused: no" in watched.status.last_failure)
        watched.asked.failure = None
        with trio.fail_after(10):
            await watched.attestation.ready.wait()
    said = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert said == [
        "no certificate could be had: s:1: Connection refused",
        "no certificate could be had: s:1 refused: no",
    ]


async def test_tries_grow_rarer(autojump_clock, watching, monkeypatch):
    monkeypatch.setattr(attestation_module, "_PAUSE", 1.0)
    at = []

    async def fail(_module, _settings):
        at.append(trio.current_time())
        raise ApartError("no")

    # In this task, so that the clock jumps over the waits only.
    async def inline(work, *words):
        return work(*words)

    monkeypatch.setattr(attestation_module.trio.to_thread, "run_sync", inline)
    async with watching(backoff_min=1.0, backoff_max=60.0):
        monkeypatch.setattr(attestation_module, "run_apart", fail)
        await trio.sleep(600)
    waits = [round(later - earlier) for earlier, later in itertools.pairwise(at)]
    assert waits[:6] == [2, 3, 5, 9, 17, 33]
    assert waits[6:]
    assert set(waits[6:]) == {61}


async def test_another_nodes_identity_is_not_used(watching, pki):
    async with watching(pki.state(node="edge-2")) as watched:
        watched.asked.failure = ApartError("away")
        await watched.until(lambda: watched.asked.settings)
        await trio.sleep(0.1)
        assert not watched.attestation.ready.is_set()
        watched.asked.failure = None
        with trio.fail_after(10):
            await watched.attestation.ready.wait()


async def test_a_damaged_one_is_replaced(watching, pki):
    state = pki.state()
    (state / "node.crt").write_text("nonsense")
    async with watching(state) as watched, trio.open_nursery():
        with trio.fail_after(10):
            await watched.attestation.ready.wait()
    assert len(watched.asked.settings) == 1


async def test_an_expired_one_is_dialled_with_all_the_same(watching, pki):
    """It is the server's clock that decides, and ours may be ahead."""
    now = time.time()
    moved = [0.0]
    async with watching(pki.state(), clock=lambda: now + moved[0]) as watched:
        await watched.stays(0)
        watched.asked.failure = ApartError("away")
        moved[0] = 91 * DAY
        await watched.until(lambda: watched.asked.settings)
        assert watched.attestation.ready.is_set()
        moved[0] = 0.0
        watched.asked.failure = None
        tries = len(watched.asked.settings)
        await trio.sleep(0.2)
        assert len(watched.asked.settings) <= tries + 1


async def test_one_that_the_server_refuses(watching, pki):
    state = pki.state()
    serial = load_credentials(state).serial
    async with watching(state) as watched:
        await watched.stays(0)
        watched.attestation.refused("ANOTHER", "the one before")
        await watched.stays(0)
        watched.attestation.refused(serial, "the server refuses it: expired")
        await watched.until(lambda: watched.given)
        # Links with the old one are still being told.
        watched.attestation.refused(serial, "the server refuses it: expired")
        await watched.stays(1)
    assert load_credentials(state).serial != serial


async def test_another_authority(watching, pki, tmp_path):
    """The file names one that the certificate is not of: the old identity stays until there is a new one."""
    state = pki.state()
    before = load_credentials(state).serial
    async with watching(state) as watched:
        await watched.stays(0)
        watched.asked.failure = ApartError("away")
        (tmp_path / "mounted.crt").write_text(Authority.make("tunnel.test")[0].pem)
        await watched.until(lambda: len(watched.asked.settings) > 1)
        assert load_credentials(state).serial == before


async def test_more_roots_are_trusted_without_asking(watching, pki, tmp_path):
    state = pki.state()
    both = pki.authority.pem + Authority.make("tunnel.test")[0].pem
    async with watching(state) as watched:
        await watched.stays(0)
        (tmp_path / "mounted.crt").write_text(both)
        await watched.until(lambda: (state / "ca.crt").read_text() == both)
        await watched.stays(0)


async def test_a_broken_file_changes_nothing(watching, pki, tmp_path, caplog):
    state = pki.state()
    async with watching(state) as watched:
        await watched.stays(0)
        (tmp_path / "mounted.crt").write_text("nonsense")
        await watched.until(lambda: "holds no certificates of an authority" in caplog.text)
        await watched.stays(0)
    assert (state / "ca.crt").read_text() == pki.authority.pem


async def test_other_servers_are_asked_at_once(watching, monkeypatch):
    async with watching(backoff_min=3600.0, backoff_max=3600.0) as watched:
        watched.asked.failure = ApartError("away")
        await watched.until(lambda: watched.asked.settings)
        config = dataclasses.replace(watched.attestation._config, servers=(Endpoint.parse("t:1"),))
        await trio.sleep(0.05)
        watched.attestation.configure(config)
        await watched.until(lambda: len(watched.asked.settings) == 2)
        assert watched.asked.settings[-1]["servers"] == ["t:1"]


# On SIGUSR1 the agent's own process says what it has loaded.
REPORT = """
import signal, sys
def report(*_):
    with open(sys.argv.pop(), "w") as file:
        file.write("\\n".join(sys.modules))
signal.signal(signal.SIGUSR1, report)
from tunnel_agent.cli import main
sys.exit(main(sys.argv[1:-1]))
"""


@asynccontextmanager
async def agent_process(cluster, path, *prefix):
    """`tunnel-agent run` as a container has it; ended by SIGTERM, and it must obey."""
    command = [
        *prefix, sys.executable, "-W", "error", "-c", REPORT, "run",
        "--service-account-token", cluster.token_file, "--ca-file", cluster.ca_file,
        "--servers", cluster.server.endpoint, "--node-name", "edge-1", "--state-dir", cluster.state,
        "--proxy", "none", "--health-port", "0", path / "modules",
    ]  # fmt: skip
    log = (path / "agent.log").open("ab")
    environment = {**os.environ, "TMPDIR": "/nonexistent"}
    process = await trio.lowlevel.open_process(list(map(str, command)), stderr=log, env=environment)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        with trio.fail_after(5):
            assert await process.wait() == 0
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        log.close()


async def test_an_agent_from_nothing_to_a_link_and_again_while_the_cluster_is_away(tmp_path):
    async with in_a_cluster(tmp_path) as cluster:
        cluster.token_file.write_text("somebody-elses-secret")
        async with agent_process(cluster, tmp_path) as process:
            with trio.fail_after(20):
                while not cluster.vouching.asked:
                    await trio.sleep(0.02)
            cluster.token_file.write_text("token-of-edge-1")
            await cluster.server.until_linked("edge-1", 0)
            process.send_signal(signal.SIGUSR1)
            with trio.fail_after(10):
                while not (tmp_path / "modules").exists():
                    await trio.sleep(0.02)
            await trio.sleep(0.1)
            loaded = {name.partition(".")[0] for name in (tmp_path / "modules").read_text().split()}
            assert loaded & {"kubernetes", "pydantic", "cryptography", "cffi", "asyncio"} == set()
        await cluster.server.until_linked("edge-1")
        asked = cluster.vouching.asked
        cluster.vouching.away = True
        cluster.token_file.unlink()
        cluster.ca_file.unlink()
        async with agent_process(cluster, tmp_path):
            await cluster.server.until_linked("edge-1", 0)
        assert cluster.vouching.asked == asked
    said = (tmp_path / "agent.log").read_text()
    assert "refused: the apiserver does not accept the token" in said
    assert "has attested this agent as edge-1" in said
    assert "somebody-elses" not in said
    assert "token-of" not in said
    assert "Traceback" not in said


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a PID namespace, which needs root")
async def test_as_pid_1_it_obeys(tmp_path):
    """The kernel gives pid 1 no signal that it has no handler for."""
    apart = ("unshare", "--pid", "--fork", "--kill-child")
    async with in_a_cluster(tmp_path) as cluster, agent_process(cluster, tmp_path, *apart) as process:
        await cluster.server.until_linked("edge-1", 0)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        with trio.fail_after(5):
            assert await process.wait() == 0
