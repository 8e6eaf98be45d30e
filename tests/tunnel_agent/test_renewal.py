"""When an agent looks after its certificate: by the wall's clock, by the hour, and later after a failure."""

from __future__ import annotations

import dataclasses
import json
import time
from datetime import UTC, datetime, timedelta

import pytest
import trio

from tunnel_agent import renewal as renewal_module
from tunnel_agent.apart import ApartError
from tunnel_agent.config import AgentConfig
from tunnel_agent.credentials import load_credentials
from tunnel_agent.endpoint import Endpoint
from tunnel_agent.proxy import ProxyChoice
from tunnel_agent.renewal import Renewal
from tunnel_agent.status import AgentStatus

HOUR, DAY = 3600.0, 86400.0
NOTHING = {"server": "s:1", "renewed": False, "why": "", "trust": False, "moved": False}


class Looks:
    """Stands for the process that looks: counts, and answers as the test wants."""

    def __init__(self, state):
        self.state = state
        self.asked = []
        self.at = []
        self.answer = NOTHING
        self.failure = None
        self.takes = 0.0
        self.began = trio.current_time()

    async def __call__(self, module, settings):
        assert module == "tunnel_agent.renew"
        self.asked.append(json.loads(json.dumps(settings)))
        self.at.append(trio.current_time() - self.began)
        await trio.sleep(self.takes)
        if self.failure:
            raise ApartError(self.failure)
        return self.answer


@pytest.fixture
def watching(pki, monkeypatch):
    """Run a renewal over a certificate of the given life; the wall's clock goes with trio's."""
    wall = time.time()

    async def run(
        seconds, *, life=90 * DAY, linked=True, prepare=None, uniform=lambda _low, high: high, every=HOUR
    ):
        state = pki.state(now=datetime.fromtimestamp(wall, UTC), life=timedelta(seconds=life))
        looks, renewed = Looks(state), []
        began = trio.current_time()
        monkeypatch.setattr(renewal_module, "run_apart", looks)
        if prepare:
            prepare(looks)
        status = AgentStatus("test")
        if linked:
            status.linked("s:1")
        proxy = ProxyChoice("http://me:secret@proxy:3128")
        config = AgentConfig(state_dir=state, proxy=proxy, refresh_interval=every)
        watched = Renewal(
            config,
            status,
            on_renewed=lambda: renewed.append(looks.at[-1]),
            uniform=uniform,
            clock=lambda: wall + trio.current_time() - began,
            known=lambda: {"s": ["127.0.0.7"]},
        )
        with trio.move_on_after(seconds):
            await watched.run()
        return looks, renewed

    return run


async def test_every_hour(autojump_clock, watching):
    looks, renewed = await watching(DAY)
    assert 20 <= len(looks.asked) <= 24
    assert looks.at[0] <= 120
    assert not any(asked["due"] for asked in looks.asked)
    assert all(asked["known"] == {"s": ["127.0.0.7"]} for asked in looks.asked)
    assert not renewed
    assert looks.asked[0]["proxy"] == "http://me:secret@proxy:3128"


async def test_not_before_there_is_a_link(autojump_clock, watching):
    looks, _ = await watching(DAY, linked=False)
    assert looks.asked == []


@pytest.mark.parametrize("linked", [True, False])
async def test_at_two_thirds_of_its_life(autojump_clock, watching, linked):
    def prepare(looks):
        looks.answer = {**NOTHING, "renewed": True}

    looks, renewed = await watching(9 * DAY * 0.667, life=9 * DAY, linked=linked, prepare=prepare)
    due = [at for at, asked in zip(looks.at, looks.asked, strict=True) if asked["due"]]
    assert due[0] == pytest.approx(6 * DAY, abs=2 * HOUR)
    assert renewed


async def test_a_thousand_that_joined_together_do_not_come_together(autojump_clock, watching):
    looks, _ = await watching(9 * DAY * 0.65, life=9 * DAY, linked=False, uniform=lambda low, _high: low)
    assert looks.at[0] == pytest.approx(0.6 * 9 * DAY, abs=60)


async def test_what_was_just_issued_is_not_due_however_short_its_life(autojump_clock, watching):
    looks, _ = await watching(60, life=120, linked=False)
    assert looks.asked == []


async def test_what_becomes_due_during_a_look_is_renewed_after_it(autojump_clock, watching):
    def prepare(looks):
        looks.takes = 3.0

    looks, _ = await watching(150, life=182, prepare=prepare)  # due after 121 s; the first look is at 120
    assert [asked["due"] for asked in looks.asked[:2]] == [False, True]
    assert looks.at[:2] == pytest.approx([120, 123], abs=0.5)


async def test_failures_are_repeated_ever_later(autojump_clock, watching, caplog):
    def prepare(looks):
        looks.failure = "s:1: Connection refused"

    looks, renewed = await watching(DAY, prepare=prepare)
    pauses = [later - sooner for sooner, later in zip(looks.at, looks.at[1:], strict=False)]
    assert pauses[:4] == pytest.approx([61, 121, 241, 481], abs=1)
    assert max(pauses) == pytest.approx(3601, abs=1)
    assert not renewed
    assert "could not be looked after: s:1: Connection refused" in caplog.text


async def test_failures_are_not_repeated_more_rarely_than_looks_that_succeed(autojump_clock, watching):
    def prepare(looks):
        looks.failure = "/state cannot be written: No space left on device; nothing was changed"

    looks, _ = await watching(60, prepare=prepare, every=5)
    assert len(looks.asked) >= 60 / (1 + 5) - 1


async def test_failures_leave_time_for_more_tries_however_short_its_life(autojump_clock, watching):
    def prepare(looks):
        looks.failure = "s:1: timed out"

    looks, _ = await watching(60, life=60, prepare=prepare, uniform=lambda low, high: max(low, min(high, 60)))
    at = [at for at, asked in zip(looks.at, looks.asked, strict=True) if asked["due"]]
    assert at[0] == pytest.approx(60 * 0.6667, abs=1)
    assert len(at) >= 6


async def test_a_look_that_failed_does_not_put_off_what_becomes_due(autojump_clock, watching):
    def prepare(looks):
        looks.failure = "s:1: timed out"

    looks, _ = await watching(
        400, life=400, prepare=prepare, uniform=lambda low, high: max(low, min(high, 230))
    )
    due = [at for at, asked in zip(looks.at, looks.asked, strict=True) if asked["due"]]
    assert looks.asked[0]["due"] is False
    assert due[0] == pytest.approx(400 * 0.6667, abs=1)


async def test_an_expired_certificate_is_no_reason_to_hurry(autojump_clock, watching):
    def prepare(looks):
        looks.failure = "the certificate expired"

    looks, _ = await watching(HOUR, life=30, prepare=prepare)
    assert len(looks.asked) < 10


@pytest.mark.parametrize(
    ("code", "told_of"), [("certificate-time", 1), ("revoked", 1), ("", 0), ("no-room", 0)]
)
async def test_a_certificate_that_is_of_no_more_use_is_told(autojump_clock, pki, monkeypatch, code, told_of):
    config = AgentConfig(state_dir=pki.state())
    told = []

    async def look(_module, _settings):
        raise ApartError("s:1: refused", code)

    monkeypatch.setattr(renewal_module, "run_apart", look)
    status = AgentStatus("test")
    status.linked("s:1")
    watched = Renewal(config, status, on_renewed=lambda: None, on_refused=lambda *words: told.append(words))
    with trio.move_on_after(HOUR):
        await watched.run()
    serial = load_credentials(config.state_dir).serial
    assert set(told) == ({(serial, "s:1: refused")} if told_of else set())


async def test_the_next_look_is_at_the_servers_as_configured_now(autojump_clock, pki, monkeypatch):
    config = AgentConfig(state_dir=pki.state())
    looks = Looks(config.state_dir)
    monkeypatch.setattr(renewal_module, "run_apart", looks)
    status = AgentStatus("test")
    status.linked("s:1")
    watched = Renewal(config, status, on_renewed=lambda: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.run)
        await trio.sleep(2 * HOUR)
        watched.configure(dataclasses.replace(config, servers=(Endpoint.parse("other.example:1"),)))
        await trio.sleep(2 * HOUR)
        nursery.cancel_scope.cancel()
    assert looks.asked[0]["servers"] == []
    assert looks.asked[-1]["servers"] == ["other.example:1"]
