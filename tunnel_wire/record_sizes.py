"""Sizes of TLS 1.3's records, in bytes (RFC 8446, section 5)."""

from __future__ import annotations

from typing import Final

HEADER: Final = 5
TAG: Final = 16
"""What the AEAD adds."""
MOST_CONTENT: Final = 16 * 1024
"""Of content that a record holds at most (section 5.1)."""
OVERHEAD: Final = HEADER + 1 + TAG
"""Around a record's content: its header, its type and its tag."""
MOST_SEALED: Final = MOST_CONTENT + 256
"""Of a record behind its header, at most (section 5.2)."""
KEY_UPDATE: Final = 5 + OVERHEAD
"""Of a record that changes keys (section 4.6.3)."""
DATA: Final = 23
"""The type of data, and the one that every sealed record shows."""


def body_size(records: bytes | memoryview, at: int) -> int:
    """Behind the header that begins there, as that says (section 5.1)."""
    return records[at + 3] << 8 | records[at + 4]


def sealed_size(size: int) -> int:
    """What so many bytes of data become at most, with new keys behind them."""
    return size + (size // MOST_CONTENT + 1) * OVERHEAD + KEY_UPDATE
