"""A peer's certificate: whose it is, and what both clocks say."""

import pytest

from tunnel_server.peers import Peer

CERTIFICATE = {
    "subjectAltName": (("URI", "spiffe://edge.test/node/edge-1"),),
    "notBefore": "Jan 31 11:00:00 2026 GMT",
    "notAfter": "Apr 30 12:00:00 2026 GMT",
}
BEGIN, END = 1769857200, 1777550400
PEER = Peer(("192.0.2.1", 1000), CERTIFICATE, b"der")


@pytest.mark.parametrize("now", [BEGIN, BEGIN + 1, END - 1])
def test_in_time(now):
    assert PEER.time_problem(now) is None
    assert PEER.identity.name == "edge-1"


def test_out_of_time():
    assert PEER.time_problem(BEGIN - 1) == (
        "the certificate of edge-1 is valid from 2026-01-31 11:00:00 UTC only, "
        "and the server's clock says 2026-01-31 10:59:59 UTC"
    )
    assert PEER.time_problem(END) == (
        "the certificate of edge-1 expired at 2026-04-30 12:00:00 UTC, "
        "and the server's clock says 2026-04-30 12:00:00 UTC"
    )


def test_without_a_certificate():
    stranger = Peer(("192.0.2.1", 1000))
    assert stranger.time_problem() is None
    with pytest.raises(ValueError, match="no verified certificate"):
        _ = stranger.identity
