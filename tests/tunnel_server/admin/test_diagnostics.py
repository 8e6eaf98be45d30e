"""What is gathered of a node: names, tokens, certificates and addresses, from the real stores."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from types import SimpleNamespace

import pytest
import trio

from certs.files import StateDirectory, StateError
from certs.nodes import NODES_FILE, NodeRecord, NodeStore
from certs.revocations import Kind, RevocationStore
from certs.tokens import TokenStore
from tunnel_server.admin.diagnostics import PATIENCE, Diagnostics
from tunnel_server.attempts import Attempts
from tunnel_server.calls import Calls
from tunnel_server.mappings import PortMappings
from tunnel_server.metrics import Metrics
from tunnel_server.overview import Overview
from tunnel_server.registry import Registry
from tunnel_server.revocation import Revocations
from tunnel_wire.flow import Budget, SegmentPool
from tunnel_wire.limits import WireLimits

EXPIRES = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.fixture
def state(tmp_path) -> StateDirectory:
    return StateDirectory.create(tmp_path / "state")


@pytest.fixture
def registry() -> Registry:
    return Registry(
        edge_networks=(ip_network("192.168.0.0/16"),), budget=Budget(2**22),
        pool=SegmentPool(), limits=WireLimits(), links_per_node=1, on_addresses=lambda: None,
    )  # fmt: skip


@pytest.fixture
def attempts() -> Attempts:
    return Attempts()


@pytest.fixture
async def diagnostics(state, registry, attempts) -> Diagnostics:
    metrics = Metrics("1")
    calls = Calls(metrics, registry, open_timeout=15, away_wait=0, limit=10)
    overview = Overview(
        version="1", instance="i" * 32, registry=registry, calls=calls,
        mappings=PortMappings(state, {}), interception=None, metrics=metrics, problems=tuple, entrances=list,
    )  # fmt: skip
    return Diagnostics(
        registry=registry, overview=overview, nodes=NodeStore(state), tokens=TokenStore(state),
        interception=None, calls=calls, domain="example.org", revocations=Revocations(state),
        attempts=attempts,
    )  # fmt: skip


async def test_a_name_nobody_has(diagnostics, registry) -> None:
    registry.node("edge-2")
    view = await diagnostics.diagnose("edge-1")
    assert (view.node, view.known_names, view.tokens, view.certificate_expires) == (
        None,
        ("edge-2",),
        (),
        None,
    )


async def test_tokens_of_that_name_only_without_their_secret(diagnostics, state) -> None:
    tokens = TokenStore(state)
    secret, record = tokens.create("edge-1", [ip_address("192.168.2.143")], timedelta(hours=1))
    tokens.create("edge-2", [], timedelta(hours=1))
    view = await diagnostics.diagnose("edge-1")
    assert [(each.id, each.state) for each in view.tokens] == [(record.id, "live")]
    assert secret.partition(".")[2] not in repr(view)


async def test_a_known_node_that_is_away(diagnostics, state, registry) -> None:
    address = ip_address("192.168.2.143")
    record = NodeRecord("edge-1", (address,), "1", EXPIRES, EXPIRES - timedelta(days=90))
    with state.transaction() as transaction:
        transaction.write({NODES_FILE: NodeStore.encode({"edge-1": record})})
    registry.learn("edge-1", [address])
    registry.learn("edge-2", [address])
    view = await diagnostics.diagnose("edge-1")
    assert view.node is not None
    assert view.node.connected is False
    assert (view.certificate_expires, view.certificate_begins) == (
        EXPIRES,
        EXPIRES - timedelta(days=90, hours=1),
    )
    assert (view.answers, view.silent_seconds, view.gives_up_seconds) == (None, None, None)
    (shared,) = view.addresses
    assert (shared.address, shared.held, shared.captured) == ("192.168.2.143", True, False)
    assert [(c.name, c.connected, c.away_since) for c in shared.claimants] == [("edge-2", False, None)]
    assert [mapping.port for mapping in view.mappings] == [10250, 10255]


async def test_a_node_that_is_revoked(state, registry, diagnostics) -> None:
    record = NodeRecord("edge-1", (), "1", EXPIRES, datetime(2026, 1, 1, tzinfo=UTC))
    with state.transaction() as transaction:
        transaction.write({NODES_FILE: NodeStore.encode({"edge-1": record})})
    registry.node("edge-1")
    assert (await diagnostics.diagnose("edge-1")).certificate_revoked == ""
    with state.transaction() as transaction:
        RevocationStore(state).add(transaction, Kind.NODE, "edge-1", reason="stolen")
    diagnostics._revocations.reload()
    assert (await diagnostics.diagnose("edge-1")).certificate_revoked.endswith(": stolen")


async def test_an_address_of_the_certificate_that_is_forbidden_now(diagnostics, state, registry) -> None:
    record = NodeRecord("edge-1", (ip_address("10.0.0.1"),), "1", EXPIRES)
    with state.transaction() as transaction:
        transaction.write({NODES_FILE: NodeStore.encode({"edge-1": record})})
    registry.learn("edge-1", record.addresses)
    (address,) = (await diagnostics.diagnose("edge-1")).addresses
    assert (address.held, address.refusal) == (False, "outside the edge networks (192.168.0.0/16)")


class Agent:
    """A session with one link, which shows life or does not; last heard two seconds ago."""

    def __init__(self, *, answers: bool) -> None:
        self._answers = answers
        self.asked: list[float] = []
        connection = SimpleNamespace(
            last_received=trio.current_time() - 2,
            round_trip=0.003,
            limits=WireLimits(),
            draining=False,
            load=0,
            unanswered=lambda _now: 0.0,
        )
        link = SimpleNamespace(
            connection=connection,
            version="1",
            remote="203.0.113.11:5",
            clock_ahead=-200.04,
            since=trio.current_time(),
        )
        self.links = {0: link}
        self.usable = [link]

    async def answers(self, patience: float) -> bool:
        self.asked.append(patience)
        if not self._answers:
            await trio.sleep(patience)
        return self._answers


async def test_a_node_that_is_connected_is_asked_for_life_first(
    diagnostics, registry, attempts, autojump_clock
) -> None:
    attempts.handshake_failed("203.0.113.11", "TLSV1_ALERT_UNKNOWN_CA")
    registry.node("edge-1").agent = agent = Agent(answers=True)
    view = await diagnostics.diagnose("edge-1")
    assert agent.asked == [PATIENCE]
    assert (view.answers, view.silent_seconds, view.gives_up_seconds) == (True, 2.0, 10.0)
    assert view.clock_ahead_seconds == -200.0
    assert view.broken_handshake is None, "it is connected: that was another one"
    registry.node("edge-1").agent = Agent(answers=False)
    view = await diagnostics.diagnose("edge-1")
    assert (view.answers, view.silent_seconds, view.gives_up_seconds) == (False, 7.0, 5.0)
    assert view.patience_seconds == PATIENCE


async def test_what_became_of_its_last_link(diagnostics, registry, attempts) -> None:
    registry.node("edge-1")
    attempts.ended("edge-1", "203.0.113.11", "nothing received for 12 s")
    attempts.handshake_failed("203.0.113.11", "SSLV3_ALERT_BAD_CERTIFICATE")
    view = await diagnostics.diagnose("edge-1")
    assert (view.last_end.host, view.last_end.reason) == ("203.0.113.11", "nothing received for 12 s")
    assert (view.broken_handshake.host, view.broken_handshake.alert) == ("203.0.113.11", "bad-certificate")


async def test_a_damaged_file_is_named(diagnostics, state) -> None:
    with state.transaction() as transaction:
        transaction.write({NODES_FILE: b"{"})
    with pytest.raises(StateError, match=r"nodes\.json is damaged"):
        await diagnostics.diagnose("edge-1")
