"""What a certificate of our own says, as whoever verifies it will read it. Standard library only."""

import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress

_X509_V_FLAG_NO_CHECK_TIME = 0x200000  # openssl/x509_vfy.h; `ssl` has no name for it


def shown_certificate(load: Callable[[ssl.SSLContext], None]) -> Mapping[str, object]:
    """Show a client certificate to ourselves, and return it in `getpeercert` form; empty if there is none.

    `load` puts certificate, key and the authority to verify with into a context. `ssl` reads only a peer's
    certificate, and verifies it in doing so: thus a handshake in memory. The clock is left out of it.
    Raises ssl.SSLCertVerificationError for one that the authority did not issue, and whatever `load` raises.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.verify_mode = ssl.CERT_REQUIRED
    server.verify_flags |= _X509_V_FLAG_NO_CHECK_TIME
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE  # both ends are ourselves
    load(server)
    load(client)
    upward, downward = ssl.MemoryBIO(), ssl.MemoryBIO()
    accepting = server.wrap_bio(upward, downward, server_side=True)
    dialling = client.wrap_bio(downward, upward)
    for end in (dialling, accepting, dialling, accepting):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    return accepting.getpeercert() or {}
