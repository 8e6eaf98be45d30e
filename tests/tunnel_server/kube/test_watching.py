"""The stream of a watch, cut where it likes. What an apiserver does to watches is tested with a real one."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel_server.kube import watching
from tunnel_server.kube.watching import _batches

if TYPE_CHECKING:
    import urllib3

EVENTS = [{"type": "ADDED", "object": {"metadata": {"name": f"é{number}"}}} for number in range(4)]
BYTES = b"".join(json.dumps(each, ensure_ascii=False).encode() + b"\n" for each in EVENTS)


class Answer:
    def __init__(self, *chunks: bytes) -> None:
        self.chunks = chunks

    def stream(self, _size: int) -> tuple[bytes, ...]:
        return self.chunks


def batches(*chunks: bytes) -> list[list[dict[str, Any]]]:
    return list(_batches(cast("urllib3.HTTPResponse", Answer(*chunks))))


@given(st.lists(st.integers(0, len(BYTES)), max_size=6))
def test_events_are_whole_however_they_come(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(BYTES)]
    found = batches(*(BYTES[low:high] for low, high in itertools.pairwise(places)))
    assert [event for batch in found for event in batch] == EVENTS
    assert all(found)


def test_what_comes_at_once_is_one_batch_and_half_an_event_is_none() -> None:
    assert batches(BYTES + b'{"type": "ADD') == [EVENTS]
    assert batches(b"\n\n", b"") == []


def test_an_event_without_end_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_LONGEST_LINE", 100)
    with pytest.raises(ValueError, match="an event of more than 100 bytes"):
        batches(*[b"x" * 60] * 3)
    with pytest.raises(ValueError, match="Expecting value"):
        batches(b"nonsense\n")
