"""A Unix socket of ours: private, one server at a time, and who is at its other end."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from tunnel_daemon import inheritance
from tunnel_daemon.program import ProgramError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

BACKLOG = 32
_UCRED = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid


@dataclass(frozen=True, slots=True)
class Credentials:
    """A peer as the kernel saw it connect."""

    pid: int
    uid: int
    gid: int


def peer_credentials(stream: trio.SocketStream) -> Credentials:
    """Return who connected; raises OSError if the kernel does not say."""
    raw = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Credentials(*_UCRED.unpack(raw))


class SocketUsers:
    """Who may use one socket: root, the server's own user, and those named, who may change at any time.

    The file is its owner's alone as long as nobody is named. Then anybody may connect, so each connection's
    user has to be looked up here.
    """

    def __init__(self, uids: Iterable[int] = ()) -> None:
        self._uids = frozenset(uids)
        self.path: Path | None = None
        """Of the socket, while there is one."""

    def __contains__(self, uid: int) -> bool:
        return uid in self._uids or uid in {0, os.geteuid()}

    @property
    def mode(self) -> int:
        """The file's."""
        return 0o666 if self._uids else 0o600

    def change(self, uids: Iterable[int]) -> None:
        """Let in these from now on. Connections that stand go on."""
        before, self._uids = self._uids, frozenset(uids)
        if self._uids != before:
            self.set_mode()

    def set_mode(self) -> None:
        """Of the file, if there is one."""
        if self.path is not None:
            try:
                self.path.chmod(self.mode)
            except OSError as error:
                log.warning("%s: its mode can't be changed: %s", self.path, error.strerror)


@contextlib.contextmanager
def admin_listener(
    path: Path, users: SocketUsers | None = None, *, setting: str = "admin-socket"
) -> Iterator[trio.SocketListener]:
    """Listen at `path`, in a directory made 0711 if it is missing, since users may be named later.

    Without `users`, for root and the server's own user.
    What a dead server left there is replaced; a lock beside the socket, which the kernel drops
    with its holder, tells dead from alive. Raises ProgramError, which names `setting`. On leaving,
    the socket is closed and removed; the lock file stays, since removing one invites a race. A socket that
    this process was given for the path is used instead, with its lock; one that a successor has got stays.
    """
    given = inheritance.claim_unix(path)
    lock = given.lock if given and given.lock is not None else _lock(path, setting)
    try:
        users = users or SocketUsers()
        if given is None:
            listener = _listen(path, users.mode, setting)
        else:
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(given.sock))
        inheritance.note(listener, setting, lock)
        users.path = path
        if given is not None:
            inheritance.once_ours(given, users.set_mode)
        try:
            yield listener
        finally:
            users.path = None
            listener.socket.close()
            if (given is None or given.ours) and not inheritance.is_succeeded():
                path.unlink(missing_ok=True)
    finally:
        os.close(lock)


def _lock(path: Path, setting: str) -> int:
    try:
        path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(path, error, setting) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        message = f"another tunnel-server is running with {setting} {path}: stop it, or set another"
        raise ProgramError(message) from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _listen(path: Path, mode: int, setting: str) -> trio.SocketListener:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _remove_stale(path, setting)
        # Linux gives the file the mode of the socket's own inode, umask applied: never a moment too open.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(str(path))
        path.chmod(mode)
        sock.listen(BACKLOG)
        return trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    except OSError as error:
        sock.close()
        raise _unusable(path, error, setting) from None
    except BaseException:
        sock.close()
        raise


def _remove_stale(path: Path, setting: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ProgramError(f"{path} is in the way and no socket: remove it, or set another {setting}")
        path.unlink()


def _unusable(path: Path, error: OSError, setting: str) -> ProgramError:
    reason = (error.strerror or str(error)).lower()
    return ProgramError(f"can't listen on {path}: {reason}; set a {setting} in a directory of your own")
