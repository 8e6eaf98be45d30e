"""Port mappings: their origins, what is kept on disk, and what is never mapped."""

import json
import stat

import pytest

from certs.files import StateDirectory
from tunnel_server.mappings import (
    MAX_MAPPINGS,
    OWN_PORTS,
    MappingError,
    Origin,
    PortMapping,
    PortMappings,
)

BUILT_IN = {10250: 10263, 10255: 10264}


@pytest.fixture
def state(tmp_path):
    return StateDirectory.create(tmp_path / "state")


def test_built_in_configured_and_added(state):
    mappings = PortMappings(state, {9081: 10264})
    assert mappings.effective() == {**BUILT_IN, 9081: 10264}
    assert mappings.add(9443, 10263)
    assert not mappings.add(9443, 10263)
    assert mappings.describe() == [
        PortMapping(9081, 10264, Origin.CONFIGURED),
        PortMapping(9443, 10263, Origin.ADDED),
        PortMapping(10250, 10263, Origin.BUILT_IN),
        PortMapping(10255, 10264, Origin.BUILT_IN),
    ]


def test_what_is_added_is_kept_over_restarts_in_a_private_file(state):
    PortMappings(state).add(9081, 10264)
    mode = (state.path / "mappings.json").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    again = PortMappings(state, insecure_port=20264, secure_port=20263)
    assert again.effective() == {10250: 20263, 10255: 20264, 9081: 20264}
    again.add(9081, 20263)
    assert PortMappings(state).effective()[9081] == 10263
    again.remove(9081)
    assert PortMappings(state).effective() == BUILT_IN


@pytest.mark.parametrize(
    ("port", "target", "words"),
    [
        (10250, 10264, "10250=10264 is built in"),
        (9000, 10264, "9000=10264 is configured in dnat-ports-pair"),
        (9081, 9081, "the listeners are 10264 (plain) and 10263 (TLS)"),
        (0, 10264, "ports are 1 to 65535"),
        (65536, 10264, "ports are 1 to 65535"),
        *((port, 10264, "a port of the tunnel itself") for port in OWN_PORTS),
    ],
)
def test_what_cannot_be_added(state, port, target, words):
    mappings = PortMappings(state, {9000: 10264})
    with pytest.raises(MappingError) as raised:
        mappings.add(port, target)
    assert words in str(raised.value)
    assert not (state.path / "mappings.json").exists()


@pytest.mark.parametrize(("port", "words"), [(10250, "built in"), (9000, "configured"), (1, "not mapped")])
def test_what_cannot_be_removed(state, port, words):
    with pytest.raises(MappingError, match=words):
        PortMappings(state, {9000: 10264}).remove(port)


def test_additions_are_bounded(state):
    ports = {str(port): "plain" for port in range(1, MAX_MAPPINGS + 1)}
    write(state, {"version": 1, "added": ports})
    mappings = PortMappings(state)
    with pytest.raises(MappingError, match="remove another"):
        mappings.add(5000, 10264)
    assert mappings.add(1, 10263)  # a change is no addition
    write(state, {"version": 1, "added": {**ports, "6000": "plain"}})
    assert "beyond" in PortMappings(state).problems[0]


def write(state, document):
    (state.path / "mappings.json").write_text(json.dumps(document))


def test_a_bad_entry_in_the_file_is_named_and_the_others_stand(state):
    write(
        state,
        {"version": 1, "added": {"9081": "plain", "x": "plain", "9082": "gold", "10264": "tls", "80": 7}},
    )
    mappings = PortMappings(state)
    assert mappings.effective() == {**BUILT_IN, 9081: 10264}
    assert len(mappings.problems) == 4
    assert all("mappings.json" in problem for problem in mappings.problems)


def test_an_addition_that_is_configured_later_does_not_count_and_is_named(state):
    PortMappings(state).add(9081, 10263)
    mappings = PortMappings(state, {9081: 10264})
    assert mappings.effective()[9081] == 10264
    assert "configured now" in mappings.problems[0]


def test_other_configured_ports_from_now_on(state):
    mappings = PortMappings(state, {9081: 10264})
    mappings.add(9443, 10263)
    assert mappings.configure({9443: 10264, 9082: 10264}) == {9081: 10264}
    assert mappings.effective() == {**BUILT_IN, 9443: 10264, 9082: 10264}
    assert "configured now" in mappings.problems[0]
    mappings.configure({})
    assert mappings.effective() == {**BUILT_IN, 9443: 10263}
    assert mappings.problems == []


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 1, "added": 5}', "[" * 100_000])
def test_a_damaged_file_is_named_and_left_alone(state, text):
    (state.path / "mappings.json").write_text(text)
    with pytest.raises(MappingError, match=r"mappings\.json is not a file of port mappings"):
        PortMappings(state)
    assert (state.path / "mappings.json").read_text() == text


def test_a_later_release_of_the_file(state):
    write(state, {"version": 2, "added": {}})
    with pytest.raises(MappingError, match="version 2"):
        PortMappings(state)
