"""The CA file of an attested agent: what it trusts, kept by others, in a cluster a mounted ConfigMap.

Attesting and every look at the server write the same to the state directory. So the file counts when it
changes, and not because it is there: a ConfigMap lags behind the server by a minute or two, and a root that
is trusted no longer must not come back with it. An agent that was away while the authority was rolled has
nothing else.
"""

from __future__ import annotations

import hashlib
import logging
import ssl
from typing import TYPE_CHECKING

from certs.shown import shown_certificate
from tunnel_agent.credentials import AUTHORITY, CERTIFICATE, KEY

if TYPE_CHECKING:
    from pathlib import Path

    from certs.files import StateDirectory

log = logging.getLogger(__name__)

SEEN = "ca-file.sha256"
"""In the state directory: of the content that was last taken over."""
MAX_CA_FILE = 256 * 1024  # bytes


class CaFileError(Exception):
    """The file cannot be used; one line."""


def read_ca_file(path: Path) -> bytes:
    """Return the content; raises CaFileError."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CA_FILE + 1)
    except OSError as error:
        raise CaFileError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > MAX_CA_FILE:
        raise CaFileError(f"{path} has more than {MAX_CA_FILE} bytes")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode())
    except (ssl.SSLError, ValueError):
        raise CaFileError(f"{path} holds no certificates of an authority") from None
    return content


def seen(content: bytes) -> dict[str, bytes]:
    """Return the file that says that `content` was taken over, for a transaction."""
    return {SEEN: hashlib.sha256(content).hexdigest().encode() + b"\n"}


def follow(path: Path, state: StateDirectory) -> str:
    """Trust what the file says, if that has changed; return why this takes another certificate, if it does.

    Then nothing was changed. Raises CaFileError, StateError, and ssl.SSLError for what is in the state
    directory.
    """
    content = read_ca_file(path)
    mark = seen(content)
    if state.exists(SEEN) and state.read(SEEN) == mark[SEEN]:
        return ""
    if content != state.read(AUTHORITY):

        def load(context: ssl.SSLContext) -> None:
            context.load_verify_locations(cadata=content.decode())
            context.load_cert_chain(state.path / CERTIFICATE, state.path / KEY, password=lambda: b"")

        try:
            shown_certificate(load)
        except ssl.SSLCertVerificationError:
            return f"its certificate is of no authority in {path}"
        mark[AUTHORITY] = content
        log.info("%s has changed, and is trusted", path)
    with state.transaction() as transaction:
        transaction.write(mark)
    return ""
