"""The server's own certificate never runs out under a server that runs."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
import trio
from trio.testing import MockClock

from certs.authority import CA_KEY
from certs.files import StateDirectory
from certs.server_state import SERVER_KEY, initialise, read_server
from tunnel_server.own_certificate import LOOK_EVERY, keep_certificate


async def running(state: StateDirectory, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await keep_certificate(state)


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
