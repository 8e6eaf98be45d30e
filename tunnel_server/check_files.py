"""What the files that a configuration names would do to a server that starts here, as this user.

Looks only: nothing is made, repaired or changed.
"""

from __future__ import annotations

import os
import ssl
import stat
from typing import TYPE_CHECKING

from certs.files import StateDirectory, StateError, is_whole
from certs.nodes import NodeStore
from certs.server_state import SERVER_CERTIFICATE, SERVER_KEY
from tunnel_server.identity import ServerIdentity
from tunnel_server.mappings import MappingError, PortMappings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tunnel_server.config import ServerConfig

_MAX_SOCKET_PATH = 107
"""Bytes of a Unix socket's path, as sun_path holds them (unix(7))."""


def check_files(config: ServerConfig) -> Iterator[tuple[str, str]]:
    """Yield (key, why) for each key whose files would stop a server."""
    checks = [("state-dir", _check_state(config)), ("admin-socket", _check_socket(config.admin_socket))]
    if path := config.connect_path():
        checks.append(("connect-socket", _check_socket(path)))
    if config.audit_log:
        checks.append(("audit-log", _check_log(config.audit_log)))
    yield from ((key, why) for key, why in checks if why)


def _check_state(config: ServerConfig) -> str:
    if config.kubernetes.enabled:
        return ""  # it is in the cluster
    path = config.state_dir
    try:
        if not path.exists():
            return f"{path} does not exist: run `tunnelctl init` first"
        if not is_whole(path):
            return ""  # opening it would finish what was interrupted
        state = StateDirectory(path)
        ServerIdentity(state)
        NodeStore(state).load()
        lists = config.port_lists()
        PortMappings(
            state, lists.captured, insecure_port=config.insecure_port, secure_port=config.secure_port
        )
    except (StateError, MappingError) as error:
        return str(error)
    except OSError as error:  # ssl.SSLError among them
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        files = f"{path / SERVER_CERTIFICATE} with {SERVER_KEY}"
        return f"{files} can't be used: {reason or error}; `tunnelctl init` issues a new one"
    return ""


def _check_socket(path: Path) -> str:
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        return f"{path} is too long for a Unix socket: {_MAX_SOCKET_PATH} bytes at most"
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return f"{path} is in the way and no socket: remove it, or set another"
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        return f"{path} can't be looked at: {_words(error)}"
    # A directory that is missing is made.
    parent = next(each for each in path.absolute().parents if os.path.lexists(each))
    return _check_directory(parent)


def _check_log(path: Path) -> str:
    try:
        # As the server opens it, but for making it.
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK))
    except FileNotFoundError:
        if not path.parent.exists():
            return f"{path.parent} does not exist: make it"
        return _check_directory(path.parent)
    except OSError as error:
        return f"can't append to {path}: {_words(error)}"
    return ""


def _check_directory(path: Path) -> str:
    if not path.is_dir():
        return f"{path} is not a directory"
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        return f"nothing can be made in {path}: permission denied"
    return ""


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
