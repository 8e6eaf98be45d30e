"""SPIFFE identities: one spelling each, and nothing else is one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.identity import Identity, Role, check_name, check_node_name

LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)


@given(NAMES, st.sampled_from(Role), NAMES)
def test_what_is_written_is_read_again(domain, role, name):
    identity = Identity(domain, role, name)
    assert Identity.parse(identity.uri) == identity


@given(st.text())
def test_a_text_is_refused_or_is_the_one_spelling(text):
    try:
        identity = Identity.parse("spiffe://" + text)
    except ValueError:
        return
    assert identity.uri == "spiffe://" + text


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://d/node",
        "spiffe://d/node/a/b",
        "spiffe://d/node/",
        "spiffe:///node/a",
        "spiffe://d/admin/a",
        "spiffe://d/NODE/a",
        "spiffe://D/node/a",
        "SPIFFE://d/node/a",
        "https://d/node/a",
        "spiffe://d:1/node/a",
        "spiffe://u@d/node/a",
        "spiffe://d/node/a?x=1",
        "spiffe://d/node/a#x",
        "spiffe://d/node/%61",
        "spiffe://d/node/..",
        "spiffe://d/node/a\n",
        "spiffe://d/node/a\0",
        "spiffe://d/node/" + "a" * 3000,
    ],
)
def test_not_an_identity(uri):
    with pytest.raises(ValueError, match=r"."):
        Identity.parse(uri)


def peer(*names):
    return {"subject": (), "subjectAltName": names}


def test_a_peer_certificate_speaks_by_its_only_uri():
    cert = peer(("IP Address", "10.0.0.1"), ("URI", "spiffe://d/node/edge-1"), ("DNS", "server"))
    assert Identity.from_peer_certificate(cert) == Identity("d", Role.NODE, "edge-1")


@pytest.mark.parametrize(
    ("cert", "why"),
    [
        (None, "no verified"),
        ({}, "no verified"),
        ({"subject": ((("commonName", "edge-1"),),)}, "0 URIs"),
        (peer(("DNS", "spiffe://d/node/edge-1")), "0 URIs"),
        (peer(("URI", "spiffe://d/node/a"), ("URI", "spiffe://d/server/b")), "2 URIs"),
        (peer(("URI", "https://example.org/")), "form"),
    ],
)
def test_a_peer_certificate_that_speaks_for_nobody(cert, why):
    with pytest.raises(ValueError, match=why):
        Identity.from_peer_certificate(cert)


@pytest.mark.parametrize("name", ["edge-1", "a", "1", "a.b-c.d", "a" * 63, ".".join(["a" * 49] * 5)])
def test_names(name):
    check_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Edge",
        "-a",
        "a-",
        "a..b",
        ".a",
        "a.",
        "a_b",
        "ä",
        "a b",
        "a" * 64,
        ".".join(["a" * 50] * 5),
        "a\n",
    ],
)
def test_not_names(name):
    for check in (check_name, check_node_name):
        with pytest.raises(ValueError, match=r"is not a name: use|a name of"):
            check(name)


@pytest.mark.parametrize("name", ["edge-1", "1.edge", "10.0.0.1a", "x1", "my-localhost", "local", "cafe"])
def test_node_names(name):
    check_node_name(name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("10.0.0.1", "last part is a number is taken for an address"),
        ("1", "for an address"),
        ("0", "taken for an address"),
        ("edge.7", "taken for an address"),
        ("0x7f000001", "taken for an address"),
        ("edge.0x7f", "taken for an address"),
        ("localhost", "it means every host itself"),
        ("edge.localhost", "itself"),
        ("localhost.localdomain", "itself"),
        ("localhost6.localdomain6", "itself"),
        ("ip6-loopback", "itself"),
    ],
)
def test_names_by_which_no_node_is_reached(name, why):
    check_name(name)
    with pytest.raises(ValueError, match=why):
        check_node_name(name)
