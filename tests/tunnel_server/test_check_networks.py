"""What `tunnel-server check-config` says of addresses in nodes' networks that lead elsewhere."""

import json
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest

from certs.files import StateDirectory
from certs.nodes import NODES_FILE, NodeRecord, NodeStore
from tests.tunnel_server.identified import prepare
from tunnel_server import check_networks
from tunnel_server.check_config import check


@pytest.fixture
def path(tmp_path: Path) -> Path:
    prepare(tmp_path / "state")
    return tmp_path / "server.toml"


def warnings(path: Path, tables: str) -> list[str]:
    """Under two lines that name what a server needs and has."""
    places = {"state-dir": path.parent / "state", "admin-socket": path.parent / "admin.sock"}
    path.write_text("".join(f"{key} = {json.dumps(str(place))}\n" for key, place in places.items()) + tables)
    problems, found = check(path)
    assert problems == []
    return [each.removeprefix(f"{path}:") for each in found]


def test_nested_networks_of_two_nodes(path: Path) -> None:
    text = '[nodes.a]\nnetworks = ["10.42.0.0/16", "10.42.2.0/24"]\n[nodes.b]\nnetworks = "10.42.1.0/24"\n'
    assert warnings(path, text) == [
        "4: nodes.a.networks: 10.42.1.0/24 in 10.42.0.0/16 leads to b, which names it"
    ]
    assert warnings(path, '[nodes.a]\nnetworks = ["10.42.0.0/16", "10.42.1.0/24"]\n') == []


def test_addresses_of_other_edges(path: Path) -> None:
    state, expires = StateDirectory(path.parent / "state"), datetime(2027, 1, 1, tzinfo=UTC)
    with state.transaction() as transaction:
        known = {
            name: NodeRecord(name, (ip_address(address),), "1", expires)
            for name, address in {"a": "10.42.1.1", "b": "10.42.1.2", "c": "10.9.0.1"}.items()
        }
        transaction.write({NODES_FILE: NodeStore.encode(known)})
    assert warnings(path, '[nodes.a]\nnetworks = "10.42.1.0/24"\n') == [
        "4: nodes.a.networks: 10.42.1.2 in 10.42.1.0/24 is b's, and called there"
    ]


def test_special_addresses(path: Path) -> None:
    assert warnings(path, '[nodes.a]\nnetworks = "168.63.0.0/16"\n') == [
        "4: nodes.a.networks: 168.63.129.16/32 in 168.63.0.0/16 is not reached: a cloud metadata service"
    ]


def test_this_hosts_address(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_networks, "source_towards", lambda _: ip_address("10.42.1.9"))
    assert warnings(path, '[nodes.a]\nnetworks = ["10.42.1.0/24", "10.43.0.0/24"]\n') == [
        "4: nodes.a.networks: 10.42.1.9 in 10.42.1.0/24 is this host's, and not reached"
    ]


def test_without_a_readable_state_the_rest_is_told(path: Path) -> None:
    (path.parent / "state" / NODES_FILE).write_text("{")
    told = warnings(path, '[nodes.a]\nnetworks = "10.42.0.0/16"\n[nodes.b]\nnetworks = "10.42.1.0/24"\n')
    assert [each.split(": ")[1] for each in told] == ["state-dir", "nodes.a.networks"]
