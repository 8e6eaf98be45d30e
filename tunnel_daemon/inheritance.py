"""Listening sockets from one process to the next: those that this one was given, and those that it can give.

They are given by a service manager (sd_listen_fds(3)), or by the process that this one takes over from;
whoever wants to listen at their address gets them instead of new ones. While any process has a listening
socket open, callers are queued there and not refused. Descriptors are the process's, and so is this table.
"""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, MutableMapping
    from pathlib import Path

_FIRST = 3
"""SD_LISTEN_FDS_START."""
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


@dataclass(slots=True)
class Given:
    """A listening socket that this process did not open."""

    sock: socket.socket
    lock: int | None = None
    """Descriptor that locks a Unix socket's path."""
    ours: bool = False
    """Nobody else has it: the file of a Unix socket goes with us."""


@dataclass(slots=True)
class Listening:
    """A listening socket of this process, and what its successor has to know."""

    setting: str
    """The key that asked for it."""
    lock: int | None = None


_given: dict[str | tuple[str, int], Given] = {}
_open: WeakKeyDictionary[trio.SocketListener, Listening] = WeakKeyDictionary()
_lent: list[Given] = []
_once_ours: list[Callable[[], None]] = []
_owned = trio.Event()
_succeeded = False


def take_from_service_manager(environment: MutableMapping[str, str]) -> None:
    """Keep the sockets that systemd passes, and remove its variables: they are not for our children."""
    pid, count = environment.get("LISTEN_PID", ""), environment.get("LISTEN_FDS", "")
    for variable in _VARIABLES:
        environment.pop(variable, None)
    if pid == str(os.getpid()) and count.isdecimal():
        for descriptor in range(_FIRST, _FIRST + int(count)):
            os.set_inheritable(descriptor, False)
            if (sock := listening_socket(descriptor)) is not None:
                give(Given(sock))


def listening_socket(descriptor: int) -> socket.socket | None:
    """The descriptor as a socket, if it is one that listens; otherwise it is left as it is."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        return None
    with contextlib.suppress(OSError):
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return sock
    sock.detach()
    return None


def give(given: Given) -> None:
    """Keep a socket for whoever will want to listen at its address."""
    name = given.sock.getsockname()
    _given[name if isinstance(name, str) else (str(ip_address(name[0])), name[1])] = given


def borrow(given: Given) -> None:
    """The same, for one that its owner may keep: nobody is let in anywhere before `own`."""
    _lent.append(given)
    give(given)


def own() -> None:
    """What was borrowed is ours."""
    global _owned
    for given in _lent:
        given.ours = True
    _lent.clear()
    while _once_ours:
        _once_ours.pop(0)()
    _owned.set()
    _owned = trio.Event()


async def owned() -> None:
    """Wait until nothing is borrowed: who comes before that, comes to the owner, who may go on with it."""
    while _lent:
        await _owned.wait()


def once_ours(given: Given, act: Callable[[], None]) -> None:
    """Do what its owner would notice when it is ours: at once, if it is not borrowed."""
    if given in _lent:
        _once_ours.append(act)
    else:
        act()


def claim_tcp(host: str, port: int) -> socket.socket | None:
    """The socket that listens there, if we were given one."""
    try:
        place = (str(ip_address(host)), port)
    except ValueError:
        return None
    given = _given.pop(place, None)
    return None if given is None else given.sock


def claim_unix(path: Path) -> Given | None:
    """The socket that listens at `path`, if we were given one."""
    return _given.pop(str(path), None)


def close_unclaimed() -> list[str]:
    """Nobody wants the rest: return where they listened."""
    places = []
    while _given:
        place, given = _given.popitem()
        places.append(place if isinstance(place, str) else "{}:{}".format(*place))
        given.sock.close()
        if given.lock is not None:
            os.close(given.lock)
    return places


def note(listener: trio.SocketListener, setting: str, lock: int | None = None) -> None:
    """A listener is open, and can be given to a successor."""
    _open[listener] = Listening(setting, lock)


def listening() -> Iterator[tuple[trio.SocketListener, Listening]]:
    """Every listener that is open."""
    for listener, about in list(_open.items()):
        if listener.socket.fileno() >= 0:
            yield listener, about


def succeed() -> None:
    """A successor has our sockets from now on: let nobody in here any more, and remove no file."""
    global _succeeded
    _succeeded = True
    close_listening()


def is_succeeded() -> bool:
    """Whether a successor has our sockets."""
    return _succeeded


def close_listening(keep: Collection[str] = ()) -> None:
    """Let nobody in any more, but at listeners of the settings in `keep`. Who is in, stays."""
    for listener, about in listening():
        if about.setting not in keep:
            listener.socket.close()
