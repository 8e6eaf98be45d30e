"""Where a stream goes on: what is garbled or contradicts itself is not believed."""

from __future__ import annotations

import pytest

from tunnel_wire.hello import read_fields
from tunnel_wire.offsets import Offsets


@pytest.mark.parametrize("offsets", [Offsets(0, 65_536), Offsets(1 << 40, 1 << 40), Offsets(7, 8)])
def test_they_read_as_they_were_written(offsets: Offsets) -> None:
    assert Offsets.read(read_fields(offsets.to_headers())) == offsets


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"received": "1"},
        {"limit": "1"},
        {"received": "-1", "limit": "1"},
        {"received": "1", "limit": "x"},
        {"received": "1", "limit": "9" * 16},
        {"received": "2", "limit": "1"},
    ],
)
def test_what_makes_no_sense(fields: dict[str, str]) -> None:
    assert Offsets.read(fields) is None
