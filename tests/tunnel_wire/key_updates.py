"""TLS key updates, which Python's ssl can't ask for, by the library underneath; for tests."""

from __future__ import annotations

import _ssl
import ctypes
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

_REQUESTED = 1  # openssl/ssl.h: SSL_KEY_UPDATE_REQUESTED
# Modules/_ssl.c: PyObject_HEAD, a reference to the socket, and then the SSL.
_SSL_AT = object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)

available = not sys.abiflags
"""Objects of other builds of CPython begin otherwise."""


def ask_for_new_keys(connection: ssl.SSLObject | ssl.SSLSocket) -> None:
    """Send one KeyUpdate that asks for another (RFC 8446, section 4.6.3); of a socket, by its next `send`."""
    library = ctypes.CDLL(_ssl.__file__)
    library.SSL_key_update.argtypes = [ctypes.c_void_p, ctypes.c_int]
    inner = connection._sslobj  # type: ignore[union-attr]
    pointer = ctypes.c_void_p.from_address(id(inner) + _SSL_AT)
    assert library.SSL_key_update(pointer, _REQUESTED) == 1
    connection.do_handshake()
