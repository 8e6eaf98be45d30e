"""Asking a running server over its admin socket."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import socket
from pathlib import Path
from typing import Any

from tunnelctl.errors import CommandError, NotReachableError, RefusedError

DEFAULT_SOCKET = Path("/run/edge-tunnel/admin.sock")
TIMEOUT = 35.0  # seconds; a little more than the server gives a request
MAX_ANSWER = 64 * 1024 * 1024  # bytes


def add_arguments(parser: argparse.ArgumentParser, *, inherited: bool = False) -> None:
    """Add what every command that asks a server has: --admin-socket, --json.

    Below a command that has them itself, `inherited`: what was said there holds unless it is said again.
    """
    parser.add_argument(
        "--admin-socket",
        type=Path,
        default=argparse.SUPPRESS if inherited else DEFAULT_SOCKET,
        metavar="PATH",
        help=f"the server's admin-socket (default: {DEFAULT_SOCKET})",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        default=argparse.SUPPRESS if inherited else False,
        help="print the answer as JSON",
    )


def ask(path: Path, method: str, target: str, body: object = None) -> dict[str, Any]:
    """Return what the server at `path` answers.

    Raises NotReachableError if none listens there, RefusedError for what it refuses (4xx),
    CommandError for what fails at its side.
    """
    connection = _UnixConnection(path)
    try:
        sent = None if body is None else json.dumps(body)
        connection.connect()
        # A server that refuses us answers, and closes, without waiting for what we ask.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(
                method, target, sent, {"content-type": "application/json", "connection": "close"}
            )
        response = connection.getresponse()
        raw = response.read(MAX_ANSWER)
        status = response.status
    except PermissionError:
        raise RefusedError(
            f"{path}: permission denied; run it as root, or add your uid to admin-uids"
        ) from None
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise NotReachableError(
            f"no server listens at {path}: start tunnel-server, or name its admin-socket with --admin-socket"
        ) from None
    except TimeoutError:
        raise NotReachableError(
            f"the server at {path} gave no answer in {TIMEOUT:g} s; see its log"
        ) from None
    except (ConnectionResetError, http.client.RemoteDisconnected):
        raise NotReachableError(
            f"{path}: the connection was closed without an answer: the server may be stopping, or have too "
            "many users at once; try again, and see its log"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise NotReachableError(f"{path}: {error}; is it the socket of a tunnel-server?") from None
    finally:
        connection.close()
    return _read(path, status, raw)


def _read(path: Path, status: int, raw: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(raw)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise CommandError(f"{path}: the answer is no JSON; is it the socket of a tunnel-server?")
    if status >= 400:
        message = str(answer.get("error", f"status {status}"))
        raise RefusedError(message) if status < 500 else CommandError(f"the server failed: {message}")
    return answer


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("tunnel-server", timeout=TIMEOUT)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(str(self.path))
