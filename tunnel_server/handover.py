"""One server process takes over from another without a caller being refused: what passes between the two.

The new one connects to a Unix socket beside admin-socket, says `take`, and is given the listening sockets,
the locks of the Unix sockets' paths and the socket that owns the nftables table. From then on the old one
leaves the table alone, and serves as before. The new one starts with what it was given and says `ready` when
it serves; the old one stops listening and answers `yours`. If the new one goes away before it was ready, the
old one goes on as if nothing had happened.

    new                                 old
    take                        ->
                                <-      what there is, and its descriptors
    (both serve)
    ready                       ->
                                <-      yours     (the old one tells its agents to link again)
"""

from __future__ import annotations

import logging
import os
import socket
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from tunnel_daemon import inheritance
from tunnel_daemon.descriptor_passing import receive_with_descriptors, send_with_descriptors
from tunnel_daemon.descriptors import Acceptor
from tunnel_daemon.program import ProgramError
from tunnel_daemon.service_manager import notify
from tunnel_server.admin.unix_socket import SocketUsers, admin_listener, peer_credentials
from tunnel_server.config import HANDOVER_SUFFIX
from tunnel_wire import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from tunnel_server.capturing import Capturing
    from tunnel_server.intercept.held_table import Predecessor
    from tunnel_server.intercept.kernel import KernelState

log = logging.getLogger(__name__)

_TAKE, _READY, _YOURS, _KEPT = b"take\n", b"ready\n", b"yours\n", b"kept\n"
_SAY = 5.0
"""Seconds for whoever connects to say what it wants, and for an answer to that."""
_START = 30.0
"""Seconds for the new server from `take` to `ready`: what is captured does not change meanwhile."""


def socket_path(admin_socket: Path) -> Path:
    """Where a server with this admin-socket hands over."""
    return admin_socket.with_name(admin_socket.name + HANDOVER_SUFFIX)


# --- the old server -------------------------------------------------------------------------------


class Handover:
    """The old server's side."""

    def __init__(self, admin_socket: Path, capturing: Capturing) -> None:
        self._path = socket_path(admin_socket)
        self._capturing = capturing
        self.done = trio.Event()
        """Another server has taken over."""

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Wait until another server has taken over: nobody is let in here any more then.

        Raises ProgramError if nobody could ask. Cancelled, this server goes on.
        """
        with admin_listener(self._path, setting="admin-socket") as listener:
            task_status.started()
            acceptor = Acceptor(listener, "a server that takes over")
            while not self.done.is_set():
                async with await acceptor.accept() as stream:
                    try:
                        await self._serve(stream)
                    except (OSError, trio.BrokenResourceError) as error:
                        log.warning("a server that was to take over has not: %s", error or type(error))

    async def _serve(self, stream: trio.SocketStream) -> None:
        peer = peer_credentials(stream)
        if peer.uid not in SocketUsers():
            log.warning("user %d may not take over from this server", peer.uid)
            return
        with trio.move_on_after(_SAY) as patience:
            if await _receive(stream) != _TAKE:
                return
        if patience.cancelled_caught:
            return
        log.info("process %d asks to take over", peer.pid)
        async with AsyncExitStack() as stack:
            interception = self._capturing.interception
            kernel = await stack.enter_async_context(interception.lend()) if interception else None
            with trio.move_on_after(_START):
                await send_with_descriptors(stream, *_estate(kernel))
                if await _receive(stream) == _READY:
                    # From here on it is done, whatever becomes of the other: it listens.
                    self.done.set()
                    if kernel is not None:
                        kernel.leave()
                    self._capturing.interception = None
                    inheritance.succeed()
        if self.done.is_set():
            log.info("process %d has taken over", peer.pid)
            notify(f"MAINPID={peer.pid}")
        else:
            log.warning("process %d was to take over, and did not come up: this server goes on", peer.pid)
        with trio.move_on_after(_SAY), suppress(trio.BrokenResourceError):
            await stream.send_all(_YOURS if self.done.is_set() else _KEPT)


def _estate(kernel: KernelState | None) -> tuple[dict[str, Any], list[int]]:
    descriptors: list[int] = []

    def add(descriptor: int | None) -> int | None:
        """Its place among the descriptors."""
        if descriptor is None:
            return None
        descriptors.append(descriptor)
        return len(descriptors) - 1

    message: dict[str, Any] = {
        "version": __version__,
        "listeners": [
            {"socket": add(listener.socket.fileno()), "lock": add(about.lock)}
            for listener, about in inheritance.listening()
        ],
    }
    if kernel is not None:
        message["table"] = {"owner": add(kernel.owner), **kernel.held().to_json()}
    return message, descriptors


async def _receive(stream: trio.SocketStream) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < len(_READY):
        part = await stream.receive_some(1)
        if not part:
            break
        line += part
    return line


# --- the new server -------------------------------------------------------------------------------


@dataclass
class Takeover:
    """The new server's side, from the moment that it has what the old one gave."""

    _sock: socket.socket
    table: Predecessor | None

    async def finish(self) -> None:
        """Say that this server serves, and return once the old one does not any more.

        Raises ProgramError if the old one has not let go. Cancelled, it may have, and what it gave is gone.
        """
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(self._sock))
        async with stream:
            try:
                await stream.send_all(_READY)
                answer = await _receive(stream)
            except trio.BrokenResourceError:
                answer = b""
        if answer != _YOURS:
            # It may be stopping just now, and take everything away.
            why = "it goes on: this one was too late" if answer == _KEPT else "it went away meanwhile"
            raise ProgramError(f"nothing is taken over from the server that runs, {why}; try again")
        inheritance.own()


def take_over(admin_socket: Path) -> Takeover | None:
    """Have the server with this admin-socket give what it has; None if none is running.

    Blocks. Raises ProgramError if it gives nothing.
    """
    path = socket_path(admin_socket)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(_SAY)
        try:
            sock.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            return None
        sock.sendall(_TAKE)
        message, descriptors = receive_with_descriptors(sock)
        return Takeover(sock, _take(message, descriptors))
    except (OSError, EOFError, ValueError) as error:
        sock.close()
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ProgramError(f"the server at {path} does not let this one take over: {why}") from None


def _take(message: dict[str, Any], descriptors: list[int]) -> Predecessor | None:
    left = dict(enumerate(descriptors))
    try:
        for each in message["listeners"]:
            sock = inheritance.listening_socket(left[each["socket"]])
            if sock is not None:
                del left[each["socket"]]
                lock = None if each["lock"] is None else left.pop(each["lock"])
                inheritance.borrow(inheritance.Given(sock, lock))
        said = message.get("table")
        return None if said is None else _predecessor(left.pop(said["owner"]), said)
    except (KeyError, TypeError) as error:
        raise ValueError(f"it says {error} in another way than this release") from None
    finally:
        for descriptor in left.values():
            os.close(descriptor)


def _predecessor(owner: int, said: dict[str, Any]) -> Predecessor:
    # pyroute2 costs memory: it is loaded only where it is used.
    from tunnel_server.intercept.held_table import HeldTable, Predecessor

    try:
        return Predecessor(owner, HeldTable.from_json(said))
    except (KeyError, TypeError, ValueError) as error:
        log.warning("the table of the server before this one is made anew: %s", error)
        return Predecessor(owner, None)
