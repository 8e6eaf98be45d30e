"""An identity for an agent in a cluster: its pod's ServiceAccount token for a certificate, over HTTPS.

`python -m tunnel_agent.attest`, run by `tunnel_agent.attestation` in a process of its own (see `apart`).

1. Trust the CA file, from the first byte on, and check that a server answers.
2. Send the token, with a request for a key made here.
3. Check what came, and write it as a whole.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from certs.files import StateDirectory, StateError
from certs.identity import Identity, Role
from certs.requests import key_pem, make_request, new_key
from certs.subjects import check_replacement
from tunnel_agent.apart import serve_apart
from tunnel_agent.ca_file import CaFileError, read_ca_file, seen
from tunnel_agent.credentials import (
    AUTHORITY,
    CERTIFICATE,
    DETAILS,
    KEY,
    CredentialsError,
    details,
    load_credentials,
)
from tunnel_agent.endpoint import Endpoint
from tunnel_agent.join import server_identity
from tunnel_agent.join_client import Client, UnreachableError, client_context
from tunnel_agent.tls_errors import TlsFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric import ec

    from tunnel_agent.join_client import Answer

_ROOM = 64 * 1024  # bytes; what is written is a tenth
_MAX_TOKEN = 16 * 1024  # bytes


class AttestError(Exception):
    """Nothing was changed; one line. `code` is the server's word for its refusal, if it was that."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Settings:
    """What attesting needs to know."""

    state_dir: str
    servers: tuple[str, ...]
    """Tried in this order."""
    proxy: str
    """As in the agent's configuration."""
    timeout: float
    """Seconds, for one server."""
    node: str
    token_file: str
    ca_file: str
    known: dict[str, list[str]] = field(default_factory=dict)
    """What DNS said last to the agent, by name; an agent that was upgraded meanwhile does not say it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is on disk now."""

    server: str
    node: str


def attest(settings: Settings) -> Outcome:
    """Exchange the token for a certificate. Blocking; not to be called from a trio task.

    Raises AttestError, CaFileError, StateError; what was in the state directory is then still there.
    """
    path = Path(settings.state_dir)
    state = StateDirectory.create(path)
    with state.transaction() as transaction:
        transaction.check_room(_ROOM)
    trusted = read_ca_file(Path(settings.ca_file))
    context = client_context()
    context.load_verify_locations(cadata=trusted.decode())
    try:
        proxy = load_credentials(path).proxy
    except CredentialsError:
        proxy = ""
    key = new_key()
    fields = {
        "service_account_token": _read_token(settings.token_file),
        "node": settings.node,
        "csr": make_request(key).decode(),
    }
    body = json.dumps(fields).encode()
    silent = []
    for server in settings.servers:
        client = Client.to(Endpoint.parse(server), settings.proxy or proxy, settings.timeout, settings.known)
        who: list[Identity] = []
        try:
            answer = client.ask(
                context,
                "POST",
                "/v1/join",
                body,
                check_peer=lambda peer, who=who: who.append(server_identity(peer)),  # type: ignore[misc]
            )
            document = _document(client, answer)
        except UnreachableError as error:
            silent.append(str(error))
            continue
        except TlsFailedError as error:
            silent.append(_explain(client, error, settings.ca_file))
            continue
        files = _accept(client, document, key, Identity(who[-1].domain, Role.NODE, settings.node), proxy)
        with state.transaction() as transaction:
            transaction.write({**files, **seen(trusted)})
        return Outcome(str(client.server), settings.node)
    raise AttestError("; ".join(silent))


def _read_token(file: str) -> str:
    try:
        with Path(file).open("rb") as opened:
            token = opened.read(_MAX_TOKEN + 1).strip()
    except OSError as error:
        raise AttestError(f"{file} cannot be read: {error.strerror}") from None
    if not token or len(token) > _MAX_TOKEN or not token.isascii() or not token.decode().isprintable():
        raise AttestError(f"{file} holds no token of a ServiceAccount")
    return token.decode()


def _explain(client: Client, error: TlsFailedError, ca_file: str) -> str:
    if error.kind == "other-authority":
        return f"{client.server}: its certificate is not of an authority in {ca_file}; the token was not sent"
    return f"{client.server}: {str(error).removeprefix(f'{client.server}: ')}; the token was not sent"


def _document(client: Client, answer: Answer) -> Mapping[str, object]:
    if answer.status >= 500:
        raise UnreachableError(f"{client.server}: {answer.refusal()[1]}", sent=True)
    if answer.status != 200:
        code, message = answer.refusal()
        raise AttestError(f"{client.server} refused: {message}", code or str(answer.status))
    document = answer.document()
    if document is None:
        raise AttestError(f"{client.server}: its answer is not JSON")
    return document


def _accept(
    client: Client, answer: Mapping[str, object], key: ec.EllipticCurvePrivateKey, own: Identity, proxy: str
) -> dict[str, bytes]:
    """Check what the server gave, and return the files that hold it."""
    pem, bundle, listed = (answer.get(name) for name in ("certificate", "ca", "servers"))
    try:
        if not isinstance(pem, str) or not isinstance(bundle, str) or not isinstance(listed, list):
            raise ValueError("something is missing in it")  # noqa: TRY004 - one way out for all
        subject = check_replacement(pem, bundle, own, key.public_key())
        # The one that was dialled is known to work from here, whatever the others are.
        servers = dict.fromkeys([client.server, *(Endpoint.parse(str(each)) for each in listed)])
    except ValueError as error:
        raise AttestError(f"{client.server}: its answer cannot be used: {error}") from None
    return {
        KEY: key_pem(key),
        CERTIFICATE: pem.encode(),
        AUTHORITY: bundle.encode(),
        DETAILS: details(own.name, map(str, subject.addresses), servers, proxy),
    }


def main() -> int:
    """Read the settings on stdin, attest, and report."""
    return serve_apart(
        lambda given: attest(Settings(**{**given, "servers": tuple(given["servers"])})),
        (AttestError, CaFileError, StateError, ValueError),
    )


if __name__ == "__main__":
    sys.exit(main())
