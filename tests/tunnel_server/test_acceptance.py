"""What is accepted, and that whoever is connected with what no longer is, is told once, and at once."""

import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import trio

from certs.authority import Authority
from certs.files import StateDirectory
from certs.requests import new_key
from certs.revocations import Kind, RevocationStore
from certs.roll import Roll
from certs.subjects import read_subject
from tests.tunnel_server.test_identity_api import peer_of
from tunnel_server.acceptance import Acceptance
from tunnel_server.revocation import Revocations
from tunnel_wire.hello import DrainReason

LIFE = timedelta(days=90)


class Desk:
    """An authority with revocations, what is accepted by them, and who was told."""

    def __init__(self, path):
        self.state = StateDirectory.create(path)
        self.authority = Authority.create(self.state, "edge.test")
        self.acceptance = Acceptance(Revocations(self.state), self.authority)
        self.told = []

    def issue(self, name="edge-1", *, ago=timedelta(0), attested=False):
        moment = datetime.now(UTC) - ago
        key = new_key().public_key()
        self.pem = self.authority.issue_node(key, name, [], life=LIFE, now=moment, attested=attested)
        return peer_of(self.pem)

    def watch(self, peer, **options):
        return self.acceptance.watch(peer, self.told.append, **options)

    def revoke(self, kind=Kind.NODE, value="edge-1"):
        with self.state.transaction() as transaction:
            RevocationStore(self.state).add(transaction, kind, value)
        self.acceptance.revocations.reload()
        self.acceptance.look(changed=True)

    def roll(self):
        """To another root, as a running server follows it."""
        roll = Roll(self.state)
        for step in (roll.start, lambda: roll.switch(force=True), lambda: roll.finish(force=True)):
            step()
            self.authority = Authority.load(self.state)
            self.acceptance.change_authority(self.authority)


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path / "state")


def reasons(desk):
    return [each.reason for each in desk.told]


def test_what_is_refused(desk):
    good, old = desk.issue(ago=timedelta(days=1)), desk.issue(ago=2 * LIFE)
    assert desk.acceptance.refusal(good) is None
    ending = desk.acceptance.refusal(old)
    assert ending.reason is DrainReason.EXPIRED
    assert ending.why.startswith("the certificate of edge-1 expired at ")
    desk.revoke()
    ending = desk.acceptance.refusal(good)
    assert ending.reason is DrainReason.REVOKED
    assert ending.why.startswith("node edge-1 was revoked at ")


@pytest.mark.parametrize("kind", [Kind.NODE, Kind.SERIAL])
async def test_who_is_revoked_is_told_once(desk, kind, caplog):
    peer = desk.issue(ago=timedelta(days=1))
    serial = f"{read_subject(desk.pem.encode()).certificate.serial_number:x}"
    with desk.watch(peer) as watched, desk.watch(desk.issue("edge-2")):
        desk.revoke(Kind.NODE, "edge-3")
        assert desk.told == []
        assert desk.acceptance.accepts(watched)
        desk.revoke(kind, "edge-1" if kind is Kind.NODE else serial)
        desk.acceptance.look(changed=True)
        assert reasons(desk) == [DrainReason.REVOKED]
        assert not desk.acceptance.accepts(watched)
        assert f"a live connection ends: {kind.value} " in caplog.text
    with desk.watch(peer):
        assert len(desk.told) == 2, "revoked since whoever asks has looked"


async def test_an_attested_one_ends_with_its_node(desk):
    now, hour = time.time(), timedelta(hours=1)
    attested, joined = desk.issue(ago=hour, attested=True), desk.issue(ago=hour)
    lives = desk.acceptance.lives
    assert desk.acceptance.refusal(attested) is None, "nobody knows the Nodes yet"
    lives.learn({"edge-1": now - 7200})
    with desk.watch(joined), desk.watch(attested) as watched:
        lives.learn({"edge-1": now - 7200, "edge-2": now})
        assert desk.told == []
        lives.learn({"edge-2": now})
        (told,) = desk.told
        assert (told.reason, "no Node edge-1 any more" in told.why) == (DrainReason.REVOKED, True)
        assert not desk.acceptance.accepts(watched)
    assert desk.acceptance.refusal(attested).reason is DrainReason.REVOKED
    assert desk.acceptance.refusal(joined) is None
    lives.learn({"edge-1": now - 60})
    assert "for a Node before the one" in desk.acceptance.refusal(attested).why
    assert desk.acceptance.refusal(desk.issue(attested=True)) is None


async def test_who_has_left_is_not_told(desk):
    with desk.watch(desk.issue(ago=timedelta(days=1))):
        pass
    desk.revoke()
    assert desk.told == []


async def test_one_may_leave_while_another_is_told(desk):
    inner = desk.acceptance.watch(desk.issue(ago=timedelta(days=1)), desk.told.append)

    def leave(ending):
        desk.told.append(ending)
        inner.__exit__(None, None, None)

    with desk.acceptance.watch(desk.issue(ago=timedelta(days=1)), leave):
        inner.__enter__()
        desk.revoke()
    assert len(desk.told) == 1


async def test_the_clock_on_the_wall_decides(desk, monkeypatch):
    now = [time.time()]
    monkeypatch.setattr("tunnel_server.acceptance.time", SimpleNamespace(time=lambda: now[0]))
    with desk.watch(desk.issue()), desk.watch(desk.issue("edge-2", ago=timedelta(days=1))):
        now[0] += 88 * 86400
        desk.acceptance.look()
        assert desk.told == []
        for days, told in ((1.5, 1), (1, 2), (1, 2)):
            now[0] += days * 86400
            desk.acceptance.look()
            assert reasons(desk) == told * [DrainReason.EXPIRED]
    assert desk.told[0].why.startswith("the certificate of edge-2 expired at ")


async def test_a_root_that_is_trusted_no_longer(desk, autojump_clock):
    old = desk.issue()
    with desk.watch(old) as watched:
        desk.roll()
        assert not desk.acceptance.accepts(watched)
        with desk.watch(desk.issue()) as fresh:
            assert desk.acceptance.accepts(fresh)
            for seconds, told in ((5, 0), (6, 1)):
                await trio.sleep(seconds)
                desk.acceptance.look()
                assert reasons(desk) == told * [DrainReason.REPLACED]
    assert "of a root that is trusted no longer" in desk.told[0].why
    with desk.watch(old):
        assert len(desk.told) == 2, "a handshake from before the roll's end"


async def test_somebody_stands_up_for_it(desk, autojump_clock):
    vouched = True
    with desk.watch(desk.issue(ago=timedelta(days=1)), vouched=lambda: vouched):
        desk.roll()
        await trio.sleep(60)
        desk.acceptance.look()
        assert desk.told == []
        vouched = False
        desk.acceptance.look()
        assert reasons(desk) == [DrainReason.REPLACED]


async def test_nobody_stands_up_for_what_is_revoked(desk):
    with desk.watch(desk.issue(ago=timedelta(days=1)), vouched=lambda: True):
        desk.roll()
        desk.revoke()
        assert reasons(desk) == [DrainReason.REVOKED]
