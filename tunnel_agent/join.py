"""`tunnel-agent join`: from a join line to an identity on disk, or to nothing at all.

1. Fetch the authority's certificate over a connection that proves nothing, and compare its hash with the
   join line's.
2. Connect again, trusting exactly that authority, and check that a server answers.
3. Only then send the token, with a request for a key made here.
4. Check what came, and write it as a whole.

Blocking; `cryptography` is loaded here, so that an idle agent stays small.
"""

from __future__ import annotations

import json
import logging
import os
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from certs.files import StateDirectory, StateError
from certs.identity import Identity, Role, check_node_name
from tunnel_agent.credentials import AUTHORITY, CERTIFICATE, DETAILS, KEY, details
from tunnel_agent.endpoint import Endpoint
from tunnel_agent.join_client import Client, UnreachableError, client_context
from tunnel_agent.proxy import ProxyChoice, environment_proxy
from tunnel_agent.tls_errors import TlsFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    from certs.addresses import IPAddress

log = logging.getLogger(__name__)

FAILED, WRONG_USE, NOT_REACHABLE, REFUSED = 1, 2, 3, 4
_ROOM = 64 * 1024  # bytes; what joining writes is a tenth


class JoinError(Exception):
    """Joining failed and left nothing behind; one line, and the exit code that goes with it."""

    def __init__(self, text: str, exit_code: int = FAILED, code: str = "") -> None:
        super().__init__(text)
        self.exit_code = exit_code
        self.code = code
        """The server's machine code, where the server refused."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What joining got, all of it on disk."""

    identity: Identity
    addresses: tuple[IPAddress, ...]
    servers: tuple[Endpoint, ...]
    proxy: ProxyChoice
    """What the agent is to use too; empty: whatever its environment says."""


def join(
    servers: Sequence[str],
    token: str,
    ca_hash: str,
    *,
    state_dir: Path,
    proxy: str = "",
    keep_environment: bool = False,
    node: str | None = None,
    force: bool = False,
    timeout: float = 15.0,
    tries: int = 3,
    pause: float = 1.0,
) -> Joined:
    """Join with the first of `servers` that answers; write the identity to `state_dir`.

    `proxy` is as in the agent's configuration, and kept for the agent; with `keep_environment`, so is the one
    that the environment named, if it was used. `node`, where given, must be the token's. `force` joins again,
    and the old identity stays until the new one is complete; over an expired one it is not needed. `timeout`
    and `pause` are seconds; a lost answer is asked for again, `tries` times in all, with the same key. Raises
    JoinError. Must not be called from a trio task.
    """
    try:
        from certs.pins import check_ca_hash
        from certs.requests import new_key
        from certs.tokens import TokenRefusedError, check_token_form
    except ModuleNotFoundError as error:
        raise JoinError(f"joining needs {error.name}: run `pip install 'edge-tunnel[agent]'`") from None
    try:
        check_token_form(token)
        wanted = check_ca_hash(ca_hash)
        clients = [Client.to(Endpoint.parse(server), proxy, timeout) for server in servers]
        if node is not None:
            check_node_name(node)
    except (TokenRefusedError, ValueError) as error:
        raise JoinError(str(error), WRONG_USE) from None
    try:
        with StateDirectory.prepared(state_dir) as state, state.transaction(wait=0) as transaction:
            if not force and state.exists(KEY) and state.exists(CERTIFICATE) and not _has_expired(state):
                raise JoinError(
                    f"this machine has joined already, see {state_dir}: "
                    "to join again and replace that identity, add --force",
                    WRONG_USE,
                )
            transaction.check_room(_ROOM)
            client, authority = _fetch_authority(clients, wanted)
            key = new_key()
            answer, server = _send_token(client, authority, key, token, node, tries=tries, pause=pause)
            kept = proxy
            if keep_environment and not proxy and client.proxy:
                kept = environment_proxy(os.environ)
            joined, files = _accept(answer, client, authority, key, server, node, kept)
            transaction.write(files)
    except StateError as error:
        raise JoinError(str(error)) from None
    except TlsFailedError as error:
        text = str(error)
        if error.kind == "other-authority":
            text = "the certificate is not of the join line's authority: something between intercepts TLS"
        raise JoinError(f"{text}; the token was not sent", REFUSED) from None
    return joined


def _has_expired(state: StateDirectory) -> bool:
    """Whether the certificate that is there can be of no more use; one that cannot be read may yet be."""
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(state.read(CERTIFICATE))
    except ValueError:
        return False
    return certificate.not_valid_after_utc <= datetime.now(UTC)


def _fetch_authority(clients: Sequence[Client], wanted: str) -> tuple[Client, x509.Certificate]:
    """Return the first server that answers, and the certificate that the join line's hash names."""
    from certs.pins import find_ca

    context = client_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the hash decides, and nothing secret is sent
    silent = []
    for client in clients:
        try:
            answer = client.ask(context, "GET", "/v1/ca")
        except UnreachableError as error:
            silent.append(str(error))
            continue
        if answer.status != 200:
            raise JoinError(f"{client.server}: {answer.refusal()[1]}: is that the tunnel's port?", REFUSED)
        try:
            authority, seen = find_ca(answer.body, wanted)
        except ValueError:
            raise JoinError(f"{client.server}: what answers there is no tunnel server", REFUSED) from None
        if authority is None:
            raise JoinError(
                f"{client.server}: its authority has the hash {' '.join(seen)}, not the join line's: "
                "either it is another server, or something between intercepts TLS; the token was not sent",
                REFUSED,
            )
        return client, authority
    raise JoinError("; ".join(silent) or "no server was named", NOT_REACHABLE)


def _send_token(
    client: Client,
    authority: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    token: str,
    node: str | None,
    *,
    tries: int,
    pause: float,
) -> tuple[Mapping[str, object], Identity]:
    """Return the server's answer, and who it is."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from certs.requests import make_request

    context = client_context()
    try:
        context.load_verify_locations(cadata=authority.public_bytes(Encoding.DER))
    except ssl.SSLError:
        raise JoinError(f"{client.server}: its authority's certificate cannot be used", REFUSED) from None
    who: list[Identity] = []
    fields = {"token": token, "csr": make_request(key).decode()}
    body = json.dumps(fields if node is None else {**fields, "node": node}).encode()
    lost = False
    for attempt in range(1, tries + 1):
        try:
            answer = client.ask(
                context, "POST", "/v1/join", body, check_peer=lambda peer: who.append(server_identity(peer))
            )
            break
        except UnreachableError as error:
            lost = lost or error.sent
            if attempt == tries:
                hint = "; the token may be used up (see `tunnelctl token list` on the server)" if lost else ""
                raise JoinError(f"{error}{hint}", NOT_REACHABLE) from None
            log.info("%s; asking again", error)
            time.sleep(pause)
    if answer.status != 200:
        code, message = answer.refusal()
        raise JoinError(f"{client.server} refused: {message}", REFUSED, code)
    document = answer.document()
    if document is None:
        raise JoinError(f"{client.server}: its answer is not JSON")
    return document, who[-1]


def server_identity(peer: Mapping[str, object] | None) -> Identity:
    """Return which server a verified certificate is of; raises TlsFailedError if it is of none."""
    try:
        identity = Identity.from_peer_certificate(peer)
    except ValueError as error:
        raise TlsFailedError("not-a-server", f"what answers there is no tunnel server: {error}") from None
    if identity.role is not Role.SERVER:
        raise TlsFailedError("not-a-server", f"what answers there is {identity}, not a server")
    return identity


def _accept(
    answer: Mapping[str, object],
    client: Client,
    authority: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    server: Identity,
    node: str | None,
    proxy: str,
) -> tuple[Joined, dict[str, bytes]]:
    """Check what the server gave, and return it with the files that hold it."""
    from certs.pins import ca_hash, find_ca
    from certs.requests import key_pem
    from certs.subjects import read_subject

    pem, bundle, listed = (answer.get(name) for name in ("certificate", "ca", "servers"))
    try:
        if not isinstance(pem, str) or not isinstance(bundle, str) or not isinstance(listed, list):
            raise ValueError("something is missing in it")  # noqa: TRY004 - one way out for all
        subject = read_subject(pem.encode(), issuer=authority)
        if subject.certificate.public_key() != key.public_key():
            raise ValueError("the certificate is for another key")
        if subject.identity != Identity(server.domain, Role.NODE, node or subject.identity.name):
            raise ValueError(f"the certificate is for {subject.identity}")
        if find_ca(bundle.encode(), ca_hash(authority))[0] is None:
            raise ValueError("its authorities are others than the join line's")
        # The one that was dialled is known to work from here, whatever the others are.
        servers = tuple(dict.fromkeys([client.server, *(Endpoint.parse(str(each)) for each in listed)]))
    except ValueError as error:
        raise JoinError(f"{client.server}: its answer cannot be used: {error}") from None
    addresses = [str(address) for address in subject.addresses]
    files = {
        KEY: key_pem(key),
        CERTIFICATE: pem.encode(),
        AUTHORITY: bundle.encode(),
        DETAILS: details(subject.identity.name, addresses, servers, proxy),
    }
    return Joined(subject.identity, subject.addresses, servers, ProxyChoice.parse(proxy)), files
