"""Files of the state as objects, and back."""

import base64
import json

from certs.nodes import NODES_FILE
from certs.tokens import TOKENS_FILE
from tunnel_server.kube.resources import CONFIG_MAPS, SECRETS
from tunnel_server.kube.state_layout import KIND, LABELS, PARTS, Stored, part_of

TOKENS, NODES = part_of(TOKENS_FILE), part_of(NODES_FILE)


def document(part, entries):
    return json.dumps({"version": 1, part.member: entries}).encode()


def stored(wanted, version="1"):
    item = wanted.body(None)
    item["metadata"]["resourceVersion"] = version
    return Stored.read(wanted.part.resource, item)


def write(part, content, now=()):
    return list(part.wanted({each.name: each for each in now}, {part.file: content}))


def test_an_object_for_each_entry():
    tokens = [{"id": "1f2e3d4c", "node": "edge-1"}, {"id": "00000000", "node": "edge-2"}]
    objects = [stored(each) for each in write(TOKENS, document(TOKENS, tokens))]
    assert [each.name for each in objects] == ["edge-tunnel-token-1f2e3d4c", "edge-tunnel-token-00000000"]
    assert {each.kind for each in objects} == {"join-token"}
    assert json.loads(TOKENS.contents(objects)[TOKENS_FILE]) == {"version": 1, "tokens": tokens}
    assert TOKENS.contents([]) == {}


def test_only_what_changed_is_written():
    nodes = {"edge-1": {"serial": "a"}, "edge-2": {"serial": "b"}, "edge-3": {"serial": "c"}}
    objects = [stored(each) for each in write(NODES, document(NODES, nodes))]
    assert write(NODES, NODES.contents(objects)[NODES_FILE], objects) == []
    changed = document(NODES, {"edge-1": {"serial": "a"}, "edge-2": {"serial": "new"}})
    found = {each.name: each.data for each in write(NODES, changed, objects)}
    assert found.keys() == {"edge-tunnel-node-edge-2", "edge-tunnel-node-edge-3"}
    assert found["edge-tunnel-node-edge-3"] == {}  # is to go
    assert write(NODES, None, objects[:1])[0].data == {}


def test_a_name_that_is_too_long_for_an_object():
    long = ".".join(["e" * 60] * 4)
    (wanted,) = write(NODES, document(NODES, {long: {"serial": "a"}}))
    assert len(wanted.name) <= 253
    assert json.loads(NODES.contents([stored(wanted)])[NODES_FILE])["nodes"] == {long: {"serial": "a"}}


def test_an_entry_that_somebody_damaged_does_not_take_the_others_with_it():
    good, bad = (each.body(None) for each in write(TOKENS, document(TOKENS, [{"id": "a"}, {"id": "b"}])))
    bad["data"]["record"] = base64.b64encode(b'{"id": "b"').decode()
    good, bad = (Stored.read(SECRETS, each) for each in (good, bad))
    assert json.loads(TOKENS.contents([good, bad])[TOKENS_FILE])["tokens"] == [{"id": "a"}]
    assert write(TOKENS, document(TOKENS, [{"id": "a"}]), [good, bad]) == []  # nor is it ours to remove


def test_whole_files_keep_what_else_is_in_the_object():
    part = part_of("ca.key")
    now = Stored.read(
        SECRETS,
        {
            "metadata": {"name": part.name, "resourceVersion": "7", "annotations": {"a": "b"}},
            "data": {key: base64.b64encode(b"old").decode() for key in ("ca.key", "ca-next.key", "mine")},
        },
    )
    (wanted,) = part.wanted({part.name: now}, {"ca.key": b"new", "ca-next.key": None})
    assert wanted.data == {"ca.key": b"new", "mine": b"old"}
    body = wanted.body(now)
    assert body["metadata"] == {"name": part.name, "resourceVersion": "7", "annotations": {"a": "b"}}
    assert part.contents([now]) == {"ca.key": b"old", "ca-next.key": b"old"}  # `mine` is no file of ours


def test_config_maps_are_text():
    part = part_of("revocations.json")
    (wanted,) = part.wanted({}, {"revocations.json": b"{}"})
    assert part.resource == CONFIG_MAPS
    body = wanted.body(None)
    assert body["data"] == {"revocations.json": "{}"}
    assert body["metadata"]["labels"] == {**LABELS, KIND: "revocations"}


def test_the_order_of_writing():
    """See the module: each of these must come before the next, wherever a writer dies."""
    order = [file for part in PARTS for file in part.files]
    for first, then in (
        ("revocations.json", "tokens.json"),
        ("ca.key", "server.crt"),
        ("tokens.json", "nodes.json"),
    ):
        assert order.index(first) < order.index(then)
    assert part_of("mappings.json") is None


def test_no_secret_is_shown():
    (wanted,) = write(TOKENS, document(TOKENS, [{"id": "a", "digest": "f00f"}]))
    assert "f00f" not in repr(wanted) + repr(stored(wanted))
