"""Header blocks (RFC 7541): hpack, with short ways for fields that both ends have in their tables.

After its first stream a link says the same fields again and again. hpack looks each of them up in turn, and
encodes the one that is always new by Huffman's code, bit by bit in Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import hpack
from hpack.exceptions import HPACKDecodingError, OversizedHeaderListError
from hpack.hpack import encode_integer
from hpack.table import table_entry_size

if TYPE_CHECKING:
    from collections.abc import Sequence

_INDEXED = 0x80
_NEVER_INDEXED = b"\x10"
_LONG_INDEX = 0xFF
"""Indexed as well, but the index goes on in the next byte."""
_SIZE_UPDATE, _SIZE_UPDATE_MASK = 0x20, 0xE0


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

    def encode(self, headers: Sequence[tuple[bytes, bytes]], huffman: bool = True) -> bytes:  # type: ignore[override]
        """The header block of `headers`."""
        block = b""
        if self.header_table.resized:
            block = self._encode_table_size_change()
            self.header_table.resized = False
        known = self._known
        for field in headers:
            if type(field) is not tuple and not field.indexable:  # type: ignore[attr-defined]
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
    """Decodes the fields that stand first in a block, and in the tables, by one look each."""

    def decode(self, data: bytes, raw: bool = False) -> list[hpack.HeaderTuple]:
        """The fields of a header block. Raises HPACKError."""
        if not raw:
            return list(super().decode(data))
        fields = []
        table, left = self.header_table, self.max_header_list_size
        for first in data:
            if not _INDEXED < first < _LONG_INDEX:
                break
            field = table.get_by_index(first & ~_INDEXED)
            fields.append(hpack.HeaderTuple(*field))
            left -= table_entry_size(*field)
            if left < 0:
                raise OversizedHeaderListError(f"more than {self.max_header_list_size} bytes of fields")
        rest = data[len(fields) :]
        if fields and rest and rest[0] & _SIZE_UPDATE_MASK == _SIZE_UPDATE:
            raise HPACKDecodingError("a table size update behind a field")
        for each in super().decode(rest, raw=True):
            fields.append(each)
            left -= table_entry_size(*each)
        if left < 0:
            raise OversizedHeaderListError(f"more than {self.max_header_list_size} bytes of fields")
        return fields
