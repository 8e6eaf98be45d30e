"""Ports for programs that are about to listen."""

import pytest

from bench.peers import peer
from bench.peers.peer import PeerFailed, free_port


def test_no_port_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_port()
    monkeypatch.setattr(peer, "LISTENERS", range(first, first + 8))
    monkeypatch.setattr(peer, "_given", {first})
    given: list[int] = []

    def take_all() -> None:
        while len(given) < 8:
            given.append(free_port())

    with pytest.raises(PeerFailed, match="no port from"):
        take_all()
    assert first not in given
    assert len(given) == len(set(given))
