"""Ports for programs that are about to listen."""

import pytest

from bench.peers import peer
from bench.peers.peer import PeerFailed, free_port


def test_no_port_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_port()
    monkeypatch.setattr(peer, "LISTENERS", range(first, first + 8))
    given = []
    with pytest.raises(PeerFailed, match="no port from"):
        while True:
            given.append(free_port())
    assert first not in given
    assert len(given) == len(set(given))
