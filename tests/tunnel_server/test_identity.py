"""The server's own certificate: read again when it has changed, and never half."""

import os
from ipaddress import IPv4Address

import pytest
import trio

from certs.files import StateError
from certs.revocations import Kind, RevocationStore
from certs.roll import Roll
from certs.server_state import initialise
from tests.e2e.shortage import descriptors
from tests.tunnel_server.identified import prepare
from tunnel_server.identity import ServerIdentity


@pytest.fixture
def state(tmp_path):
    return prepare(tmp_path / "state")


def test_nothing_changed(state):
    identity, told = ServerIdentity(state), []
    identity.on_change.append(lambda: told.append(1))
    context = identity.context
    assert not identity.reload_tls()
    assert not identity.reload_revocations()
    assert identity.context is context
    assert not told


def test_another_certificate(state):
    identity, told = ServerIdentity(state), []
    identity.on_change.append(lambda: told.append(identity.context))
    context = identity.context
    initialise(state, addresses=(IPv4Address("127.0.0.2"),))
    assert identity.reload_tls()
    assert told == [identity.context]
    assert identity.context is not context
    Roll(state).start()
    assert identity.reload_tls()
    assert len(identity.authority.roots) == 2
    assert len(identity.context.get_ca_certs()) == 2


def test_what_cannot_be_used_changes_nothing(state):
    identity = ServerIdentity(state)
    before = identity.authority, identity.context
    good = state.read("ca.crt")
    (state.path / "ca.crt").write_bytes(b"nonsense")
    with pytest.raises(StateError, match="restore it from a backup"):
        identity.reload_tls()
    assert (identity.authority, identity.context) == before
    with pytest.raises(StateError):
        identity.reload_tls()  # as long as it is there
    with state.transaction() as transaction:
        transaction.write({"ca.crt": good})
    assert identity.reload_tls()


async def test_watched(state, autojump_clock, caplog):
    identity = ServerIdentity(state)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(identity.watch)
        await trio.sleep(2)
        with state.transaction() as transaction:
            RevocationStore(state).add(transaction, Kind.SERIAL, "abc")
        initialise(state, addresses=(IPv4Address("127.0.0.2"),))
        context = identity.context
        await trio.sleep(1)
        assert identity.context is not context
        assert [each.value for each in identity.revocations._list] == ["abc"]
        (state.path / "revocations.json").write_text("{")
        await trio.sleep(5)
        assert caplog.text.count("what was in force stays in force") == 1
        nursery.cancel_scope.cancel()


async def test_what_cannot_be_read_for_want_of_descriptors_is_read_later(state, autojump_clock, caplog):
    identity = ServerIdentity(state)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(identity.watch)
        await trio.sleep(2)
        context = identity.context
        with state.transaction() as transaction:
            RevocationStore(state).add(transaction, Kind.SERIAL, "abc")
        initialise(state, addresses=(IPv4Address("127.0.0.2"),))
        with descriptors(os.getpid()):
            await trio.sleep(2)
        assert identity.context is context
        assert caplog.text.count("revocations.json cannot be read: Too many open files") == 1
        await trio.sleep(1)
        assert identity.context is not context
        assert [each.value for each in identity.revocations._list] == ["abc"]
        nursery.cancel_scope.cancel()
