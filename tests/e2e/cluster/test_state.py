"""The server's state in a real Kubernetes API: shared by servers, whole after a kill, one success a token."""

from __future__ import annotations

import base64
import json
import logging
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding

from certs.authority import Authority
from certs.backup import BackupError, make_backup, read_backup, restore_backup
from certs.enrolment import Enrolment
from certs.files import StateDirectory, StateError, StateUnavailableError
from certs.identity import Identity, Role
from certs.nodes import NodeStore
from certs.renewal import Renewals, RevokedError, create_caller
from certs.requests import make_request, new_key
from certs.revocations import Kind, RevocationStore
from certs.roll import Phase, Roll
from certs.server_state import initialise, server_names
from certs.subjects import read_subject
from certs.tokens import TOKENS_FILE, Refusal, TokenRefusedError, TokenState, TokenStore
from tests.e2e.cluster import state_worker
from tunnel_server.kube import own_state
from tunnel_server.kube.access import from_kubeconfig
from tunnel_server.kube.client import Cluster
from tunnel_server.kube.resources import CONFIG_MAPS
from tunnel_server.kube.state import ClusterState
from tunnel_server.kube.state_cache import StateCache
from tunnel_server.kube.state_layout import KIND

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.cluster.control_plane import ControlPlane

ADDRESS = ip_address("192.168.2.143")
HOUR = timedelta(hours=1)
RACES = 20


def open_state(kubeconfig: Path, namespace: str) -> ClusterState:
    return ClusterState(Cluster(partial(from_kubeconfig, kubeconfig), timeout=2), namespace)


def made_state(kubeconfig: Path, namespace: str) -> ClusterState:
    state = open_state(kubeconfig, namespace)
    initialise(state, addresses=(ip_address("203.0.113.10"),), dns_names=())
    return state


@pytest.fixture
def state(apiserver: ControlPlane, namespace: str) -> ClusterState:
    """As `tunnelctl` has it, and made."""
    return made_state(apiserver.kubeconfig, namespace)


@pytest.fixture
def server(state: ClusterState) -> ClusterState:
    """The same as a running server has it: known, and not followed, as if its watch had fallen behind."""
    known = ClusterState(state.cluster, state.namespace)
    known.fill_cache()
    return known


def enrolment(state: ClusterState) -> Enrolment:
    return Enrolment(state, Authority.load(state), is_own=lambda _address: False)


def a_token(state: ClusterState, node: str = "edge-1") -> str:
    return TokenStore(state).create(node, [ADDRESS], HOUR)[0]


def serial_of(pem: str) -> str:
    return f"{read_subject(pem.encode()).certificate.serial_number:x}"


def der(pem: str) -> bytes:
    return read_subject(pem.encode()).certificate.public_bytes(Encoding.DER)


class Worker:
    """A process beside this one; see `state_worker`."""

    def __init__(self, kubeconfig: Path, namespace: str, *writes: str) -> None:
        command = [sys.executable, "-m", state_worker.__name__, str(kubeconfig), namespace, *writes]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.heard()

    def say(self, line: str) -> None:
        print(line, file=self.process.stdin, flush=True)

    def heard(self) -> str:
        return self.process.stdout.readline().strip()


@contextmanager
def workers(kubeconfig: Path, namespace: str, *writes: str, number: int = 2) -> Iterator[list[Worker]]:
    made = [Worker(kubeconfig, namespace, *writes) for _ in range(number)]
    try:
        yield made
    finally:
        for each in made:
            each.process.stdin.close()
            each.process.wait(10)
            each.process.stdout.close()


def test_every_store(state, server):
    assert server_names(state).hosts == ("203.0.113.10",)
    desk = enrolment(server)
    token = a_token(state)
    server.fill_cache()
    joined = desk.join(token, "edge-1", make_request(new_key()))
    assert desk.tokens.list()[0].state(datetime.now(UTC)) is TokenState.USED  # its own write, at once
    assert NodeStore(state).load()["edge-1"].addresses == (ADDRESS,)
    assert desk.holders(ADDRESS) == ["edge-1"]
    renewed = Renewals(server, desk.authority).renew(der(joined.certificate), make_request(new_key()))
    serial = serial_of(renewed.certificate)
    assert NodeStore(state).load()["edge-1"].serial == serial
    create_caller(state, desk.authority, "ci", new_key().public_key(), life=HOUR)
    revocations = RevocationStore(state)
    state.change(lambda change: revocations.add(change, Kind.NODE, "edge-1", "stolen"))
    assert revocations.load().find(Identity(desk.authority.domain, Role.NODE, "edge-1"), serial)
    revocations.remove(Kind.NODE, "edge-1")
    assert list(revocations.load()) == []
    assert NodeStore(state).remove("edge-1").serial == serial
    assert not state.exists("nodes.json")
    assert state.names() == [
        "ca.crt", "ca.key", "callers.json", "revocations.json", "server.crt", "server.key", "tokens.json",
    ]  # fmt: skip


def test_two_processes_and_one_token(apiserver, state):
    """One success each time, whoever is first, and the record is the winner's."""
    with workers(apiserver.kubeconfig, state.namespace) as both:
        for number in range(RACES):
            token = a_token(state, f"edge-{number}")
            for each in both:
                each.say(f"join {token}")
            assert sorted(each.heard() for each in both) == ["joined", "token-used"]
    nodes = NodeStore(state).load()
    used = {each.node: serial_of(each.certificate) for each in TokenStore(state).list()}
    assert len(used) == RACES
    assert {name: record.serial for name, record in nodes.items()} == used


def test_servers_that_start_at_once_make_one_authority(apiserver, namespace):
    with workers(apiserver.kubeconfig, namespace, number=4) as all_of_them:
        for each in all_of_them:
            each.say("init")
        (found,) = {each.heard() for each in all_of_them}
    assert Authority.load(open_state(apiserver.kubeconfig, namespace)).hash == found


def killed(apiserver: ControlPlane, namespace: str, writes: int, line: str) -> None:
    with workers(apiserver.kubeconfig, namespace, str(writes), number=1) as (worker,):
        worker.say(line)
        assert not worker.heard()
        assert worker.process.wait(10) == -9


def test_killed_between_authority_and_certificate(apiserver, namespace):
    killed(apiserver, namespace, 1, "init")
    state = open_state(apiserver.kubeconfig, namespace)
    made = Authority.load(state).hash
    with pytest.raises(StateError, match=r"no server\.crt"):
        server_names(state)
    assert initialise(state, addresses=(ADDRESS,), dns_names=()).authority.hash == made
    assert server_names(state).hosts == (str(ADDRESS),)


def test_killed_between_token_and_node(apiserver, state, server):
    """The token is used, once: by the key that it was used with, which gets its certificate, and is known."""
    token = a_token(state)
    request = make_request(new_key())

    class Killed(ClusterState):
        def put(self, wanted, stored):
            super().put(wanted, stored)
            raise ZeroDivisionError

    dying = Killed(state.cluster, state.namespace)
    with pytest.raises(ZeroDivisionError):
        enrolment(dying).join(token, None, request)
    assert not state.exists("nodes.json")
    with pytest.raises(TokenRefusedError) as caught:
        enrolment(state).join(token, None, make_request(new_key()))
    assert caught.value.refusal is Refusal.USED
    again = enrolment(server).join(token, None, request)
    assert NodeStore(state).load()["edge-1"].serial == serial_of(again.certificate)
    # Another token's process is really killed there.
    other = a_token(state, "edge-2")
    killed(apiserver, state.namespace, 1, f"join {other}")
    assert {each.node for each in TokenStore(state).list() if each.used} == {"edge-1", "edge-2"}
    assert set(NodeStore(state).load()) == {"edge-1"}


def test_killed_between_revocation_and_its_tokens(apiserver, state):
    a_token(state)
    killed(apiserver, state.namespace, 1, "revoke edge-1")
    assert RevocationStore(state).load().of(Kind.NODE, "edge-1")
    (token,) = TokenStore(state).list()
    assert token.state(datetime.now(UTC)) is TokenState.LIVE
    with workers(apiserver.kubeconfig, state.namespace, number=1) as (worker,):
        worker.say("revoke edge-1")
        assert worker.heard() == "revoked"
    assert TokenStore(state).list()[0].state(datetime.now(UTC)) is TokenState.REVOKED


def test_who_knows_only_of_before_decides_by_what_is_now(state, server, monkeypatch):
    monkeypatch.setattr(StateCache, "live", True)  # as it is while its watch is behind by a moment
    token, stolen, revoked = a_token(state), a_token(state, "edge-2"), a_token(state, "edge-3")
    server.fill_cache()
    enrolment(state).join(stolen, None, make_request(new_key()))
    TokenStore(state).revoke(revoked.partition(".")[0])
    desk = enrolment(server)
    joined = desk.join(token, None, make_request(new_key()))
    for each, why in ((stolen, Refusal.USED), (revoked, Refusal.REVOKED)):
        with pytest.raises(TokenRefusedError) as caught:
            desk.join(each, None, make_request(new_key()))
        assert caught.value.refusal is why
    state.change(lambda change: RevocationStore(state).add(change, Kind.NODE, "edge-1"))
    assert not server.exists("revocations.json")  # as it was
    with pytest.raises(RevokedError):
        Renewals(server, desk.authority).renew(der(joined.certificate), make_request(new_key()))


def test_a_roll(state, server):
    a_token(state)
    Roll(state).start()
    assert Roll(state).status().phase is Phase.DISTRIBUTING
    (one,) = Roll(state).status().tokens
    assert one[1] == "edge-1"
    Roll(state).switch()
    assert not state.exists("ca-next.key")
    Roll(state).finish()
    server.fill_cache()
    assert len(Authority.load(server).roots) == 1
    assert not initialise(server).issued  # the server's certificate is of the new root


def test_from_a_directory_to_a_cluster_and_back(apiserver, namespace, state, tmp_path):
    standalone = StateDirectory.create(tmp_path / "standalone")
    initialise(standalone, addresses=(ADDRESS,), dns_names=("tunnel.example.org",))
    token = a_token(standalone)
    enrolment(standalone).join(token, None, make_request(new_key()))
    standalone.change(lambda change: change.write({"mappings.json": b"{}"}))
    with pytest.raises(BackupError, match=r"not empty \(Secret .*/edge-tunnel-ca has other contents"):
        restore_backup(read_backup(make_backup(standalone, None), None), state)
    other = open_state(apiserver.kubeconfig, apiserver.namespace(f"{namespace}-restored"))
    for _again in range(2):  # as after one that was interrupted
        left_out = restore_backup(read_backup(make_backup(standalone, None), None), other)
        assert list(left_out) == ["mappings.json"]
    assert Authority.load(other).hash == Authority.load(standalone).hash
    assert TokenStore(other).list() == TokenStore(standalone).list()
    assert NodeStore(other).load() == NodeStore(standalone).load()
    back = StateDirectory.create(tmp_path / "back")
    restore_backup(read_backup(make_backup(other, b"correct horse battery"), b"correct horse battery"), back)
    assert back.names() == other.names()
    assert TokenStore(back).list() == TokenStore(standalone).list()


def test_what_is_too_much_for_an_object(state):
    full = json.dumps({"version": 1, "revocations": []}).encode() + b" " * 1024 * 1024
    with pytest.raises(StateError, match=r"ConfigMap .*/edge-tunnel-revocations would have 10.* bytes"):
        state.change(lambda change: change.write({"revocations.json": full}))
    assert not state.exists("revocations.json")


def test_a_token_that_somebody_damaged_takes_no_other_with_it(apiserver, state, server):
    good, bad = a_token(state), a_token(state, "edge-2")
    patch = {"data": {"record": base64.b64encode(b"{").decode()}}
    name = f"edge-tunnel-token-{bad.partition('.')[0]}"
    apiserver.kubectl("-n", state.namespace, "patch", "secret", name, "--patch", json.dumps(patch))
    server.fill_cache()
    desk = enrolment(server)
    desk.join(good, None, make_request(new_key()))
    with pytest.raises(TokenRefusedError) as caught:
        desk.join(bad, None, make_request(new_key()))
    assert caught.value.refusal is Refusal.UNKNOWN


def test_who_may_not(apiserver, namespace):
    limited = open_state(apiserver.as_service_account(namespace, "default"), namespace)
    with pytest.raises(StateError, match=f"verb list on secrets in a Role in {namespace}") as caught:
        limited.fill_cache()
    assert not isinstance(caught.value, StateUnavailableError)
    missing = open_state(apiserver.kubeconfig, "nowhere")
    with pytest.raises(StateError, match="tunnelctl install"):
        initialise(missing, addresses=(ADDRESS,), dns_names=())


def test_nothing_secret_is_shown(state, server, caplog):
    caplog.set_level(logging.DEBUG)
    token = a_token(state)
    server.fill_cache()
    enrolment(server).join(token, None, make_request(new_key()))
    (record,) = TokenStore(server).list()
    key = base64.b64encode(server.read("ca.key")).decode()
    shown = caplog.text + repr(server) + repr(list(server.cache._known.values()))
    for secret in (token, token.partition(".")[2], record.digest, key, "PRIVATE KEY"):
        assert secret not in shown


async def until(true, seconds: float = 5.0) -> None:
    with trio.fail_after(seconds):
        while not true():
            await trio.sleep(0.02)


async def test_a_running_server_follows_and_goes_on_while_the_apiserver_is_away(own_apiserver):
    own_apiserver.namespace("edge-tunnel")
    state = await trio.to_thread.run_sync(made_state, own_apiserver.kubeconfig, "edge-tunnel")
    server = ClusterState(state.cluster, state.namespace)
    await trio.to_thread.run_sync(server.fill_cache)
    desk = enrolment(server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(server.follow, lasting=30))
        await until(lambda: server.cache.live)
        token = await trio.to_thread.run_sync(a_token, state)
        await until(lambda: server.exists(TOKENS_FILE))
        before = server.version("revocations.json")
        await trio.to_thread.run_sync(
            state.change, lambda change: RevocationStore(state).add(change, Kind.NODE, "edge-9")
        )
        await until(lambda: server.version("revocations.json") != before, 1.0)
        assert RevocationStore(server).load().of(Kind.NODE, "edge-9")

        own_apiserver.stop_api()
        await until(lambda: not server.cache.live)
        assert server.cache.notes()
        assert Authority.load(server).hash == desk.authority.hash
        assert RevocationStore(server).load().of(Kind.NODE, "edge-9")
        with pytest.raises(StateUnavailableError, match=r"nothing listens there|was cut"):
            await trio.to_thread.run_sync(desk.join, token, None, make_request(new_key()))

        own_apiserver.start_api()
        await until(lambda: server.cache.live, 45)
        assert (
            await trio.to_thread.run_sync(desk.join, token, None, make_request(new_key()))
        ).node == "edge-1"
        nursery.cancel_scope.cancel()


async def test_an_authority_that_somebody_removes_is_put_back(apiserver, state, monkeypatch):
    """By a server that runs and knows it; but not where the rest was removed too."""
    monkeypatch.setattr(own_state, "PUT_BACK_AFTER", 2.0)
    monkeypatch.setattr(own_state, "_LOOK_EVERY", 0.2)
    made = await trio.to_thread.run_sync(Authority.load, state)
    server = ClusterState(state.cluster, state.namespace)
    await trio.to_thread.run_sync(server.fill_cache)
    kubectl = partial(apiserver.kubectl, "-n", state.namespace)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(own_state.keep_own_state, server, lasting=30))
        await until(lambda: server.cache.find(CONFIG_MAPS, own_state.BUNDLE))
        for _again in range(2):
            await trio.to_thread.run_sync(kubectl, "delete", "secret", "edge-tunnel-ca")
            await until(lambda: not server.exists("ca.key"))
            await until(lambda: server.exists("ca.key"))
        assert (await trio.to_thread.run_sync(Authority.load, state)).hash == made.hash
        await trio.to_thread.run_sync(kubectl, "delete", "secrets,configmaps", "-l", KIND)
        await until(lambda: not server.exists("server.crt"))
        await trio.sleep(3)
        assert not server.exists("ca.key")
        nursery.cancel_scope.cancel()
