"""TLS handshakes in memory, and records made by hand, for tests."""

from __future__ import annotations

import _ssl
import ctypes
from typing import TYPE_CHECKING

from tests.tunnel_wire.key_updates import available
from tests.tunnel_wire.links import contexts, new_contexts
from tunnel_wire.records import Keys
from tunnel_wire.tls import TlsPump

if TYPE_CHECKING:
    import ssl

ALERT, HANDSHAKE, DATA = 21, 22, 23
AES_128 = "TLS_AES_128_GCM_SHA256"
TAKEN_WITHOUT_ASKING = "TLS_AES_256_GCM_SHA384"
"""What OpenSSL agrees on with itself."""
CAN_CHOOSE = available


def choose_suite(context: ssl.SSLContext, suite: str) -> None:
    """Offer this one alone: Python's ssl can say so from 3.15 on."""
    library = ctypes.CDLL(_ssl.__file__)
    library.SSL_CTX_set_ciphersuites.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    # Modules/_ssl.c: PyObject_HEAD, and then the SSL_CTX.
    pointer = ctypes.c_void_p.from_address(id(context) + object.__basicsize__)
    assert library.SSL_CTX_set_ciphersuites(pointer, suite.encode()) == 1


def shaken(
    both: tuple[ssl.SSLContext, ssl.SSLContext] | None = None, suite: str = ""
) -> tuple[TlsPump, TlsPump]:
    """A server's and a client's end of a new connection; what the server says last is not delivered."""
    server_context, client_context = both or (new_contexts() if suite else contexts())
    if suite:
        choose_suite(client_context, suite)
    server = TlsPump(server_context, server_side=True)
    client = TlsPump(client_context, server_hostname="test")
    client.handshake_step()
    server.feed(client.ciphertext())
    server.handshake_step()
    client.feed(server.ciphertext())
    assert client.handshake_step()
    server.feed(client.ciphertext())
    assert server.handshake_step()
    return server, client


class ByHand:
    """Records of one direction, whatever they say."""

    def __init__(self, suite: str, secret: bytes, records: int = 0) -> None:
        self.keys = Keys(suite, secret)
        self.records = records

    def record(self, content: bytes, kind: int | None = DATA, padding: int = 0) -> bytes:
        """One with this content; without a type if there is none."""
        inner = content + bytes([] if kind is None else [kind]) + bytes(padding)
        header = bytes([DATA, 3, 3]) + (len(inner) + 16).to_bytes(2)
        nonce = (self.keys.iv ^ self.records).to_bytes(12)
        self.records += 1
        return header + self.keys.aead.encrypt(nonce, inner, header)

    def key_update(self, asks: int = 0) -> bytes:
        """One KeyUpdate (RFC 8446, section 4.6.3); what comes next has the new keys."""
        record = self.record(bytes([24, 0, 0, 1, asks]), HANDSHAKE)
        self.keys.update()
        self.records = 0
        return record


def cut(wire: bytes) -> list[bytes]:
    """Its records."""
    records = []
    while wire:
        size = 5 + int.from_bytes(wire[3:5])
        records.append(wire[:size])
        wire = wire[size:]
    return records


def read(pump: TlsPump, wire: bytes) -> bytes:
    """What OpenSSL makes of these records."""
    pump.feed(wire)
    piece, content = memoryview(bytearray(65536)), b""
    while size := pump.read_into(piece):
        content += piece[:size]
    return content
