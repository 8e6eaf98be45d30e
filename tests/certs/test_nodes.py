"""The nodes that are known while they are away."""

from datetime import UTC, datetime
from ipaddress import ip_address

import pytest

from certs.files import StateDirectory, StateError
from certs.nodes import NodeRecord, NodeStore

RECORD = NodeRecord(
    "edge-1", (ip_address("192.168.2.143"), ip_address("fd00::1")), "1f", datetime(2030, 1, 1, tzinfo=UTC)
)


@pytest.fixture
def state(tmp_path):
    return StateDirectory.create(tmp_path)


def write(state, data):
    with state.transaction() as transaction:
        transaction.write({"nodes.json": data})


def test_what_is_written_is_read_again(state):
    store = NodeStore(state)
    assert store.load() == {}
    write(state, store.encode({"edge-1": RECORD}))
    assert store.load() == {"edge-1": RECORD}


def test_one_is_forgotten(state):
    store = NodeStore(state)
    other = NodeRecord("edge-2", RECORD.addresses[:1], "2", RECORD.expires)
    write(state, store.encode({"edge-2": other, "edge-1": RECORD}))
    assert store.remove("edge-1") == RECORD
    assert store.remove("edge-1") is None
    assert store.load() == {"edge-2": other}


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b'{"nodes": []}', b'{"nodes": {"a": {}}}', b'{"nodes": {"A": {"addresses": []}}}',
     b'{"nodes": {"a": {"addresses": "x", "serial": "1", "expires": "2030-01-01"}}}'],
)  # fmt: skip
def test_a_damaged_file_is_named_with_the_remedy(state, data):
    write(state, data)
    with pytest.raises(StateError, match=r"nodes\.json is damaged.*restore it"):
        NodeStore(state).load()
