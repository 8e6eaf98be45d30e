"""Header blocks in which there is nothing to check: fields that every CONNECT of ours has, and its 200.

h2 passes each field of a block through seven generators, one for each rule of RFC 9113, section 8. What keeps
them all by its form is told apart here; of anything else, h2 says what is wrong with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tunnel_wire.authority import read_authority

if TYPE_CHECKING:
    from collections.abc import Sequence

_METHOD: Final = (b":method", b"CONNECT")
_STATUS: Final = (b":status", b"200")
_OURS: Final = frozenset(
    {b"tunnel-epoch", b"tunnel-key", b"tunnel-limit", b"tunnel-received", b"tunnel-state"}
)


def is_plain_connect(fields: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether it is `:method` CONNECT, an `:authority` that can be dialled, and fields of ours alone."""
    return (
        len(fields) > 1
        and fields[0] == _METHOD
        and fields[1][0] == b":authority"
        and read_authority(fields[1][1]) is not None
        and _are_ours(fields[2:])
    )


def is_plain_answer(fields: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether it is `:status` 200, and fields of ours alone."""
    return len(fields) > 0 and fields[0] == _STATUS and _are_ours(fields[1:])


def _are_ours(fields: Sequence[tuple[bytes, bytes]]) -> bool:
    return all(name in _OURS and value.isalnum() for name, value in fields)
