"""One look at the server over HTTPS, with this machine's certificate: what has changed, and a new one if due.

`python -m tunnel_agent.renew`, run by `tunnel_agent.renewal` in a process of its own (see `apart`): it loads
`cryptography` only where there is something to renew, and an agent with little to carry never does.

1. Say which roots are trusted here; hear the current bundle, the servers, and whether to renew at once.
2. If it is time, exchange a request over a new key for a certificate.
3. Check what came, and write it as a whole; then say again what is trusted, so that the server knows.
"""

from __future__ import annotations

import json
import ssl
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certs.files import StateDirectory, StateError
from certs.fingerprints import MAX_ROOTS, fingerprints
from certs.identity import Identity, Role
from tunnel_agent.apart import serve_apart
from tunnel_agent.credentials import (
    AUTHORITY,
    CERTIFICATE,
    DETAILS,
    KEY,
    Credentials,
    CredentialsError,
    details,
    load_credentials,
)
from tunnel_agent.endpoint import Endpoint
from tunnel_agent.join_client import Client, UnreachableError, client_context
from tunnel_agent.tls_errors import TlsFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric import ec

_ROOM = 64 * 1024  # bytes; what renewing writes is a tenth


class RenewError(Exception):
    """Nothing was changed; one line. `code` is the server's word for its refusal, if it was that."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Settings:
    """What a look needs to know."""

    state_dir: str
    servers: tuple[str, ...]
    """Instead of those that are stored; tried in this order."""
    proxy: str
    """As in the agent's configuration."""
    timeout: float
    """Seconds, for one server."""
    due: bool
    """Renew, whatever the server says."""
    known: dict[str, list[str]] = field(default_factory=dict)
    """What DNS said last to the agent, by name; an agent that was upgraded meanwhile does not say it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a look has changed, all of it on disk."""

    server: str
    renewed: bool = False
    """There is a new certificate."""
    why: str = ""
    """Why the server wanted that."""
    trust: bool = False
    """The authority's certificates have changed."""
    moved: bool = False
    """The servers' addresses have changed."""


def renew(settings: Settings) -> Outcome:
    """Look, and renew if it is time. Blocking; not to be called from a trio task.

    Raises RenewError, CredentialsError, StateError; what was in the state directory is then still there.
    """
    path = Path(settings.state_dir)
    state = StateDirectory(path)
    credentials = load_credentials(path)
    shown = state.read(CERTIFICATE)
    servers = [Endpoint.parse(each) for each in settings.servers] or list(credentials.servers)
    client, answer = _ask_first(
        [
            Client.to(server, settings.proxy or credentials.proxy, settings.timeout, settings.known)
            for server in servers
        ],
        state,
        credentials,
    )
    why = str(answer.get("renew") or "")
    renewing = settings.due or bool(why)
    if renewing:
        outcome = _exchange(client, state, credentials, shown, why)
    else:
        outcome = _store(client, state, credentials, shown, answer, None)
    if outcome.renewed or outcome.trust:
        # The server must not take our word for it from an answer that it sent and we may not have got.
        _ask(client, state, load_credentials(path), "/v1/identity", _trusted(state))
    return outcome


def _ask_first(
    clients: Sequence[Client], state: StateDirectory, credentials: Credentials
) -> tuple[Client, Mapping[str, object]]:
    silent = []
    for client in clients:
        try:
            return client, _ask(client, state, credentials, "/v1/identity", _trusted(state))
        except (UnreachableError, TlsFailedError) as error:
            silent.append(str(error))
    raise RenewError("; ".join(silent) or "no server is known")


def _trusted(state: StateDirectory) -> dict[str, object]:
    return {"roots": fingerprints(state.read(AUTHORITY).decode("ascii", "replace"))[:MAX_ROOTS]}


def _ask(
    client: Client, state: StateDirectory, credentials: Credentials, path: str, body: Mapping[str, object]
) -> Mapping[str, object]:
    """Return the server's answer; raises UnreachableError, TlsFailedError, RenewError."""
    context = client_context()
    context.load_verify_locations(cafile=state.path / AUTHORITY)
    context.load_cert_chain(state.path / CERTIFICATE, state.path / KEY, password=lambda: b"")
    return ask_server(client, context, credentials.identity.domain, path, body)


def ask_server(
    client: Client, context: ssl.SSLContext, domain: str, path: str, body: Mapping[str, object]
) -> Mapping[str, object]:
    """Post `body` to a server of `domain` with the certificate in `context`; return its answer.

    Raises UnreachableError, TlsFailedError, and RenewError for a refusal.
    """

    def check(peer: Mapping[str, object] | None) -> None:
        try:
            identity = Identity.from_peer_certificate(peer)
        except ValueError as error:
            text = f"{client.server}: what answers there is no tunnel server: {error}"
            raise TlsFailedError("not-a-server", text) from None
        if identity.role is not Role.SERVER or identity.domain != domain:
            text = f"{client.server}: what answers there is {identity}, not a server of ours"
            raise TlsFailedError("not-a-server", text)

    answer = client.ask(context, "POST", path, json.dumps(body).encode(), check_peer=check)
    if answer.status == 404:
        raise RenewError(f"{client.server}: this server does not renew certificates: it has to be upgraded")
    if answer.status != 200:
        code, message = answer.refusal()
        raise RenewError(f"{client.server}: {message}", code)
    document = answer.document()
    if document is None:
        raise RenewError(f"{client.server}: its answer is not JSON")
    return document


def _exchange(
    client: Client, state: StateDirectory, credentials: Credentials, shown: bytes, why: str
) -> Outcome:
    from certs.requests import make_request, new_key

    with state.transaction() as transaction:
        transaction.check_room(_ROOM)
    key = new_key()
    try:
        answer = _ask(client, state, credentials, "/v1/renew", {"csr": make_request(key).decode()})
    except (UnreachableError, TlsFailedError) as error:
        raise RenewError(str(error)) from None
    return _store(client, state, credentials, shown, answer, key, why)


def _store(
    client: Client,
    state: StateDirectory,
    credentials: Credentials,
    shown: bytes,
    answer: Mapping[str, object],
    key: ec.EllipticCurvePrivateKey | None,
    why: str = "",
) -> Outcome:
    """Check what the server gave, and write what differs from what is there."""
    bundle, listed = answer.get("ca"), answer.get("servers")
    certificate = answer.get("certificate") if key is not None else shown.decode("ascii", "replace")
    try:
        if not isinstance(bundle, str) or not isinstance(listed, list) or not isinstance(certificate, str):
            raise ValueError("something is missing in it")  # noqa: TRY004 - one way out for all
        servers = _servers(client.server, [Endpoint.parse(str(each)) for each in listed])
        files: dict[str, bytes] = {}
        trust = bundle.encode() != state.read(AUTHORITY)
        if trust or key is not None:
            from certs.subjects import check_replacement

            public_key = None if key is None else key.public_key()
            subject = check_replacement(certificate, bundle, credentials.identity, public_key)
            addresses = [str(address) for address in subject.addresses]
        else:
            addresses = [str(address) for address in sorted(credentials.addresses, key=str)]
    except ValueError as error:
        raise RenewError(f"{client.server}: its answer cannot be used: {error}") from None
    if key is not None:
        from certs.requests import key_pem

        files |= {KEY: key_pem(key), CERTIFICATE: certificate.encode()}
    if trust:
        files[AUTHORITY] = bundle.encode()
    moved = servers != credentials.servers
    if moved or key is not None:
        files[DETAILS] = details(credentials.identity.name, addresses, servers, credentials.proxy)
    if files:
        with state.transaction() as transaction:
            if state.read(CERTIFICATE) != shown:
                raise RenewError(f"{state.path}: somebody else has joined or renewed here meanwhile")
            transaction.write(files)
    return Outcome(str(client.server), key is not None, why, trust, moved)


def _servers(dialled: Endpoint, listed: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """The one that was dialled comes first: it works from here. No longer named by the server, it is last."""
    ordered = [dialled, *listed] if dialled in listed or not listed else [*listed, dialled]
    return tuple(dict.fromkeys(ordered))


def _renew(given: dict[str, Any]) -> Outcome:
    try:
        return renew(Settings(**{**given, "servers": tuple(given["servers"])}))
    except ssl.SSLError as error:
        text = f"{given['state_dir']}: TLS refuses what is there: {error.reason or error}"
        raise RenewError(text) from None


def main() -> int:
    """Read the settings on stdin, look, and report."""
    return serve_apart(_renew, (RenewError, CredentialsError, StateError, UnreachableError, TlsFailedError))


if __name__ == "__main__":
    sys.exit(main())
