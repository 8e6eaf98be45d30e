"""The server's own certificate never runs out under a server that runs."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
import trio
from trio.testing import MockClock

from certs.authority import CA_CERTIFICATE, CA_KEY
from certs.files import StateDirectory
from certs.server_state import SERVER_KEY, ServerNames, initialise, read_server
from tunnel_server.own_certificate import LOOK_EVERY, OwnCertificate


async def running(state: StateDirectory, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await OwnCertificate(state).keep()


async def test_one_that_would_expire_soon_is_issued_anew(tmp_path, autojump_clock: MockClock, caplog) -> None:
    caplog.set_level("INFO")
    state = StateDirectory.create(tmp_path / "state")
    past = datetime.now(UTC) - timedelta(days=360)
    initialise(state, addresses=(ip_address("192.0.2.1"),), now=past)
    old, key = read_server(state), state.read_secret(SERVER_KEY)
    await running(state, 1)
    new = read_server(state)
    assert new.certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=300)
    assert (new.addresses, new.identity, state.read_secret(SERVER_KEY)) == (old.addresses, old.identity, key)
    assert "the server's certificate is issued anew: it would expire soon" in caplog.text
    await running(state, 10 * LOOK_EVERY)
    assert read_server(state).certificate == new.certificate


async def test_what_cannot_be_done_is_told_and_ends_nothing(
    tmp_path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    state = StateDirectory.create(tmp_path / "state")
    initialise(state, addresses=(ip_address("192.0.2.1"),))
    (state.path / CA_KEY).rename(tmp_path / "elsewhere")
    await running(state, 1.5 * LOOK_EVERY)
    # A mocked clock may run ahead of the thread: one look is sure, and that it raised nothing.
    assert {record.levelname for record in caplog.records} == {"ERROR"}
    assert "cannot be looked after" in caplog.text


async def test_other_names_are_in_it_at_once(tmp_path, autojump_clock: MockClock) -> None:
    state = StateDirectory.create(tmp_path / "state")
    initialise(state, addresses=(ip_address("192.0.2.1"),))
    names = ServerNames((ip_address("192.0.2.1"),))
    own = OwnCertificate(state, lambda: names)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(own.keep)
        await trio.sleep(1)
        names = ServerNames(dns_names=("new.example.org",))
        before = trio.current_time()
        own.changed()
        while read_server(state).dns_names != names.dns_names:
            await trio.sleep(0.1)
        assert read_server(state).addresses == ()
        assert trio.current_time() - before < LOOK_EVERY / 2
        nursery.cancel_scope.cancel()


async def test_a_server_that_runs_makes_no_authority(tmp_path, autojump_clock: MockClock, caplog) -> None:
    state = StateDirectory.create(tmp_path / "state")
    await running(state, 1)
    assert not state.names()
    initialise(state, addresses=(ip_address("192.0.2.1"),))
    for name in (CA_KEY, CA_CERTIFICATE):
        (state.path / name).unlink()
    await running(state, 1)
    assert not state.exists(CA_KEY)
    assert caplog.text.count("restore --authority") >= 2
