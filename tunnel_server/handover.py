"""One server process takes over from another without a caller being refused: what passes between the two.

The new one connects to a Unix socket beside admin-socket, says `take`, and is given the listening sockets,
the locks of the Unix sockets' paths and the socket that owns the nftables table. From then on the old one
leaves the table alone, and serves as before. The new one starts with what it was given, lets nobody in, and
says `able` when all that could fail has not. Only when it has answered `yours` with `mine`, all is its own:
before that, whoever of the two goes away or hangs, the old one goes on as if nothing had happened.

    new                                 old
    take                        ->
                                <-      what there is, and its descriptors
    (it starts)                         (it serves)
    able                        ->
                                <-      yours
    mine                        ->
                                <-      gone      (it lets nobody in, and tells its agents to link again)
    (it serves)

Then the connection stays: `former_servers.py`. A server of 0.1.0rc1 lends the same, hears `ready` for `able`,
and has let go before it answers `yours`; it cannot take over from this one, and is told `kept`. This is the
old server's side, `takeover.py` the new one's.
"""

from __future__ import annotations

import logging
import os
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

import trio

from tunnel_daemon import inheritance
from tunnel_daemon.descriptor_passing import send_with_descriptors
from tunnel_daemon.descriptors import Acceptor
from tunnel_daemon.service_manager import notify
from tunnel_server.admin.unix_socket import SocketUsers, admin_listener, peer_credentials
from tunnel_server.config import HANDOVER_SUFFIX
from tunnel_wire import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from tunnel_server.capturing import Capturing
    from tunnel_server.former_servers import FormerServers
    from tunnel_server.intercept.kernel import KernelState

log = logging.getLogger(__name__)

TAKE, ABLE, YOURS, MINE, GONE, KEPT = b"take\n", b"able\n", b"yours\n", b"mine\n", b"gone\n", b"kept\n"
ANSWER = 5.0
"""Seconds for whoever connects to say what it wants, and for an answer."""
_START = 30.0
"""Seconds for the new server from `take` to `able`: what is captured does not change meanwhile."""
_WORD = 16
"""Bytes, more than any of the words has."""


def socket_path(admin_socket: Path) -> Path:
    """Where a server with this admin-socket hands over."""
    return admin_socket.with_name(admin_socket.name + HANDOVER_SUFFIX)


async def receive_word(stream: trio.SocketStream) -> bytes:
    """The next of the words, or what there was before the end."""
    word = b""
    while not word.endswith(b"\n") and len(word) < _WORD:
        part = await stream.receive_some(_WORD - len(word))
        if not part:
            break
        word += part
    return word


class Handover:
    """The old server's side."""

    def __init__(
        self,
        admin_socket: Path,
        capturing: Capturing,
        linked: Callable[[], Collection[str]],
        former: FormerServers,
    ) -> None:
        """Take what tells whose agents are linked: they will link to the other one."""
        self._path = socket_path(admin_socket)
        self._capturing = capturing
        self._linked = linked
        self._former = former
        self.done = trio.Event()
        """Another server has taken over."""
        self.successor: trio.SocketStream | None = None
        """The connection with it, to be closed by whoever uses it."""

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Wait until another server has taken over: nobody is let in here any more then.

        Raises ProgramError if nobody could ask. Cancelled, this server goes on.
        """
        with admin_listener(self._path, setting="admin-socket") as listener:
            task_status.started()
            acceptor = Acceptor(listener, "a server that takes over")
            while not self.done.is_set():
                stream = await acceptor.accept()
                try:
                    await self._serve(stream)
                except (OSError, trio.BrokenResourceError) as error:
                    log.warning("a server that was to take over has not: %s", error or type(error))
                finally:
                    if not self.done.is_set():
                        await trio.aclose_forcefully(stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        peer = peer_credentials(stream)
        if peer.uid not in SocketUsers():
            log.warning("user %d may not take over from this server", peer.uid)
            return
        with trio.move_on_after(ANSWER) as patience:
            if await receive_word(stream) != TAKE:
                return
        if patience.cancelled_caught:
            return
        log.info("process %d asks to take over", peer.pid)
        async with AsyncExitStack() as stack:
            interception = self._capturing.interception
            kernel = await stack.enter_async_context(interception.lend()) if interception else None
            with trio.move_on_after(_START):
                await self._give(stream, kernel)
                if await receive_word(stream) == ABLE and await _agreed(stream):
                    self.done.set()
                    if kernel is not None:
                        kernel.leave()
                    self._capturing.interception = None
                    inheritance.succeed()
                    self._former.give_away()
        if self.done.is_set():
            log.info("process %d has taken over", peer.pid)
            notify(f"MAINPID={peer.pid}")
            self.successor = stream
        else:
            log.warning("process %d was to take over, and did not come up: this server goes on", peer.pid)
        with trio.move_on_after(ANSWER), suppress(trio.BrokenResourceError):
            await stream.send_all(GONE if self.done.is_set() else KEPT)

    async def _give(self, stream: trio.SocketStream, kernel: KernelState | None) -> None:
        estate = Estate()
        try:
            message: dict[str, Any] = {
                "version": __version__,
                "pid": os.getpid(),
                "linked": sorted(self._linked()),
                "listeners": [
                    {
                        "socket": estate.add(listener.socket.fileno()),
                        "lock": None if about.lock is None else estate.add(about.lock),
                    }
                    for listener, about in inheritance.listening()
                ],
                "former": [
                    {"socket": estate.add(each.descriptor), "pid": each.pid, "version": each.version}
                    for each in self._former
                ],
            }
            if kernel is not None:
                message["table"] = {"owner": estate.add(kernel.owner), **kernel.held().to_json()}
            await send_with_descriptors(stream, message, estate.descriptors)
        finally:
            estate.close()


class Estate:
    """Descriptors on their way to another process: whatever this one closes meanwhile, they stay the same."""

    def __init__(self) -> None:
        self.descriptors: list[int] = []

    def add(self, descriptor: int) -> int:
        """Keep what it stands for; its place among the descriptors. Raises OSError."""
        self.descriptors.append(os.dup(descriptor))
        return len(self.descriptors) - 1

    def close(self) -> None:
        """They are sent, or not to be sent any more."""
        for descriptor in self.descriptors:
            os.close(descriptor)


async def _agreed(stream: trio.SocketStream) -> bool:
    """Say that all is the other one's, and return whether it has heard that."""
    # Stopped in between, neither would know whose it is.
    with trio.move_on_after(2 * ANSWER, shield=True):
        await stream.send_all(YOURS)
        return await receive_word(stream) == MINE
    return False
