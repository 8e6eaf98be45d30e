"""Header blocks (RFC 7541): hpack, with short ways for fields that both ends have in their tables.

After its first stream a link says the same fields again and again. hpack looks each of them up in turn, and
encodes the one that is always new by Huffman's code, bit by bit in Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import hpack
from hpack.exceptions import HPACKDecodingError, OversizedHeaderListError
from hpack.hpack import DEFAULT_MAX_HEADER_LIST_SIZE, encode_integer
from hpack.table import table_entry_size

if TYPE_CHECKING:
    from collections.abc import Sequence

_INDEXED: Final = 0x80
_NEVER_INDEXED: Final = b"\x10"
_LONG_INDEX: Final = 0xFF
"""Indexed as well, but the index goes on in the next byte."""
_SIZE_UPDATE: Final = 0x20
_SIZE_UPDATE_MASK: Final = 0xE0
_LONG: Final = 0x7F
"""A length that goes on in the next byte; beyond it, of text in Huffman's code."""
_LITERAL_OVERHEAD: Final = 3
"""Bytes of a short field that are neither its name nor its value."""
_MOST_KNOWN: Final = 32
"""Beginnings of blocks that are remembered: a link has two or three for each target."""
_MOST_FIELDS: Final = 16
"""Fields of each."""


class HeaderEncoder(hpack.Encoder):
    """Encodes lists of fields, each a pair of bytes. A `NeverIndexedHeaderTuple` stays out of the table."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[tuple[bytes, bytes], bytes] = {}
        """How fields in the table are encoded. An entry that comes or goes changes all of them."""

    @property
    def header_table_size(self) -> int:
        """Bytes that the table may have."""
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        # Setting it to what it is would make hpack forget that a change is still to be said.
        if value != self.header_table.maxsize:
            self._known.clear()
            self.header_table.maxsize = value
            self.table_size_changes.append(value)

    # Any, not pairs: compiled, what is declared a tuple becomes a plain one, and a secret would be indexed.
    def encode(self, headers: Sequence[Any], huffman: bool = True) -> bytes:  # type: ignore[override]
        """The header block of `headers`."""
        block = b""
        if self.header_table.resized:
            block = self._encode_table_size_change()
            self.header_table.resized = False
        known = self._known
        for field in headers:
            if type(field) is not tuple and not field.indexable:
                block += _never_indexed(*field)
            elif (encoded := known.get(field)) is not None:
                block += encoded
            else:
                encoded = self.add(field, sensitive=False, huffman=huffman)
                block += encoded
                if encoded[0] & _INDEXED:
                    known[field] = encoded
                else:
                    known.clear()
        return block


def _never_indexed(name: bytes, value: bytes) -> bytes:
    """RFC 7541, 6.2.3, with the name in full, and without Huffman's code."""
    return b"".join(
        (_NEVER_INDEXED, encode_integer(len(name), 7), name, encode_integer(len(value), 7), value)
    )


class HeaderDecoder(hpack.Decoder):
    """Decodes fields that were said before by one look at all that stand first in a block."""

    def __init__(self, max_header_list_size: int = DEFAULT_MAX_HEADER_LIST_SIZE) -> None:
        super().__init__(max_header_list_size)
        self._known: dict[bytes, tuple[list[hpack.HeaderTuple], int]] = {}
        """Fields of the tables by their indices, and their size; until an entry comes or goes."""

    def decode(self, data: bytes, raw: bool = False) -> list[hpack.HeaderTuple]:
        """The fields of a header block. Raises HPACKError."""
        if not raw:
            return list(super().decode(data))
        at = 0
        for first in data:
            if not _INDEXED < first < _LONG_INDEX:
                break
            at += 1
        fields, size = self._known.get(data[:at]) or self._look_up(data[:at])
        fields = fields.copy()
        while (field := _read_literal(data, at)) is not None:
            fields.append(field)
            at += _LITERAL_OVERHEAD + len(field[0]) + len(field[1])
            size = self._count(size, field)
        if at < len(data):
            if fields and data[at] & _SIZE_UPDATE_MASK == _SIZE_UPDATE:
                raise HPACKDecodingError("a table size update behind a field")
            self._known.clear()
            for field in super().decode(data[at:], raw=True):
                fields.append(field)
                size = self._count(size, field)
        return fields

    def _look_up(self, indices: bytes) -> tuple[list[hpack.HeaderTuple], int]:
        fields, size = [], 0
        for index in indices:
            field = hpack.HeaderTuple(*self.header_table.get_by_index(index & ~_INDEXED))
            fields.append(field)
            size = self._count(size, field)
        if len(indices) <= _MOST_FIELDS and len(self._known) < _MOST_KNOWN:
            self._known[indices] = fields, size
        return fields, size

    def _count(self, size: int, field: tuple[bytes, bytes]) -> int:
        size += table_entry_size(*field)
        if size > self.max_header_list_size:
            raise OversizedHeaderListError(f"more than {self.max_header_list_size} bytes of fields")
        return size


def _read_literal(data: bytes, at: int) -> hpack.HeaderTuple | None:
    """The field at `at` if it is short, and written as `_never_indexed` does."""
    if data[at : at + 1] != _NEVER_INDEXED:
        return None
    name_at = at + 2
    value_at = name_at + int.from_bytes(data[at + 1 : name_at]) + 1
    end = value_at + int.from_bytes(data[value_at - 1 : value_at])
    # From 127 on, a length goes on in the next byte, or Huffman's code follows.
    if end > len(data) or value_at - name_at > _LONG or end - value_at >= _LONG:
        return None
    return hpack.NeverIndexedHeaderTuple(data[name_at : value_at - 1], data[value_at:end])
