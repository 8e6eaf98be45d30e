"""How the command line reaches the server's HTTP CONNECT: its Unix socket here, or mutual TLS from anywhere.

What a caller's directory holds is as `tunnelctl caller create` writes it. Standard library only at import:
`tunnelctl --help` must not wait for trio.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tunnelctl.errors import CommandError, UsageError
from tunnelctl.standard_streams import tell

if TYPE_CHECKING:
    import argparse
    import ssl

DEFAULT_SOCKET = Path("/run/edge-tunnel/connect.sock")
SERVER_PORT = 10262
KEY, CERTIFICATE, AUTHORITY = "caller.key", "caller.crt", "ca.crt"
"""As `tunnelctl caller create` names them."""
_SOON = 30 * 86400.0
"""Seconds before its end that a long-lived certificate is spoken of."""


@dataclass(frozen=True, slots=True)
class LocalWay:
    """The connect-socket of the server on this host."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class RemoteWay:
    """A server anywhere, and the certificate to call it with."""

    host: str
    port: int
    context: ssl.SSLContext = field(repr=False)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Way = LocalWay | RemoteWay


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--connect-socket`, `--server` and `--identity`."""
    parser.add_argument(
        "--connect-socket",
        type=Path,
        metavar="PATH",
        help=f"the connect-socket of the server on this host (default: {DEFAULT_SOCKET})",
    )
    parser.add_argument(
        "--server",
        metavar="HOST[:PORT]",
        help=f"from anywhere: the server's public address (port: {SERVER_PORT}); needs --identity",
    )
    parser.add_argument(
        "--identity",
        type=Path,
        metavar="DIR",
        help="a caller's files, as `tunnelctl caller create` makes them",
    )


def find_way(args: argparse.Namespace) -> Way:
    """Return the way that the options name; raises UsageError, CommandError for bad files."""
    if args.server is None and args.identity is None:
        return LocalWay(args.connect_socket or DEFAULT_SOCKET)
    if args.connect_socket is not None:
        raise UsageError(
            "--connect-socket is for the server on this host, --server and --identity for another"
        )
    if args.server is None or args.identity is None:
        raise UsageError(
            "--server HOST:PORT and --identity DIR go together: one without the other reaches nobody"
        )
    way = remote_way(args.server, args.identity)
    _warn_of_end(args.server, args.identity, time.time())
    return way


def remote_way(server: str, identity: Path) -> RemoteWay:
    """Return the way to `--server` with `--identity`; raises UsageError, CommandError for bad files."""
    from certs.addresses import parse_endpoint

    try:
        host, port = parse_endpoint(server, SERVER_PORT)
    except ValueError as error:
        raise UsageError(f"--server: {error}") from None
    return RemoteWay(host, port, load_identity(identity))


def load_identity(directory: Path) -> ssl.SSLContext:
    """Return the context that calls with a directory's certificate; raises CommandError."""
    from tunnel_wire.tls import strict_context

    again = "make one with `tunnelctl caller create` on the server's host"
    for name in (CERTIFICATE, KEY, AUTHORITY):
        if not (directory / name).exists():
            raise CommandError(f"{directory} is no caller's identity, it has no {name}: {again}")

    context = strict_context(server_side=False)
    context.set_alpn_protocols(["http/1.1"])
    # A server's names and addresses change; that it is one is in its identity, which `dialling` looks at.
    context.check_hostname = False
    _load(directory, context)
    return context


def _load(directory: Path, into: ssl.SSLContext) -> None:
    try:
        into.load_verify_locations(cafile=directory / AUTHORITY)
    except OSError as error:
        raise _unusable(directory / AUTHORITY, error) from None
    try:
        # Without the callback, OpenSSL would ask an encrypted key's password on the terminal.
        into.load_cert_chain(directory / CERTIFICATE, directory / KEY, password=lambda: b"")
    except OSError as error:
        raise _unusable(directory / CERTIFICATE, error) from None


def _warn_of_end(server: str, directory: Path, now: float) -> None:
    """Print a line on stderr if the certificate ends soon: in the last third of its life, 30 days at most.

    One that has ended is the server's to refuse, by its clock; so is one of another authority. `now` is in
    seconds since the epoch.
    """
    from certs.shown import shown_certificate
    from certs.validity import Validity, moment
    from tunnelctl.tables import span

    try:
        certificate = shown_certificate(lambda into: _load(directory, into))
        validity = Validity.from_peer_certificate(certificate)
    except (OSError, ValueError, KeyError):
        return
    left = validity.not_after - now
    if 0 < left < min((validity.not_after - validity.issued) / 3, _SOON):
        tell(
            f"tunnelctl: the certificate in {directory} ends {moment(validity.not_after)}, in {span(left)}: "
            f"renew it with `tunnelctl caller renew --server {server} --identity {directory}`",
            error=True,
        )


def _unusable(path: Path, error: OSError) -> CommandError:
    reason = getattr(error, "reason", None) or error.strerror or str(error)
    return CommandError(f"{path} can't be used: {str(reason).lower().replace('_', ' ')}")
