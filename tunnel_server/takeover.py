"""Taking over from the server that runs: the new server's side of `handover.py`, which describes it."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from tunnel_daemon import inheritance
from tunnel_daemon.descriptor_passing import receive_with_descriptors
from tunnel_daemon.program import ProgramError
from tunnel_server.former_servers import FormerServer
from tunnel_server.handover import ABLE, ANSWER, KEPT, MINE, TAKE, YOURS, receive_word, socket_path

if TYPE_CHECKING:
    from pathlib import Path

    from tunnel_server.intercept.held_table import Predecessor

log = logging.getLogger(__name__)


@dataclass
class Takeover:
    """What the old server has lent."""

    former: list[FormerServer]
    """That one first, then those that it had taken over from and that live still."""
    linked: frozenset[str]
    """Whose agents are linked to it."""
    table: Predecessor | None
    able: bytes = ABLE
    """The word for it."""

    async def finish(self) -> None:
        """Say that this server can serve, and return once the old one does not any more.

        Raises ProgramError if the old one has not let go. Cancelled, it may have, and what it lent is gone.
        """
        stream, answer = self.former[0].stream, b""
        with trio.move_on_after(ANSWER), suppress(trio.BrokenResourceError):
            await stream.send_all(self.able)
            answer = await receive_word(stream)
        if answer == YOURS:
            # Unless it says that this came too late, all is ours, whatever becomes of it.
            with trio.move_on_after(ANSWER), suppress(trio.BrokenResourceError):
                await stream.send_all(MINE)
                answer = await receive_word(stream)
            if answer != KEPT:
                inheritance.own()
                return
        await trio.aclose_forcefully(stream)
        # It may be stopping just now, and take everything away.
        why = "it goes on: this one was too late" if answer == KEPT else "it went away meanwhile, or hangs"
        raise ProgramError(f"nothing is taken over from the server that runs, {why}; try again")


def take_over(admin_socket: Path) -> Takeover | None:
    """Have the server with this admin-socket lend what it has; None if none is running.

    Blocks. Raises ProgramError if it lends nothing.
    """
    path = socket_path(admin_socket)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(ANSWER)
        try:
            sock.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            return None
        sock.sendall(TAKE)
        message, descriptors = receive_with_descriptors(sock)
        return _take(sock, message, descriptors)
    except (OSError, EOFError, ValueError) as error:
        sock.close()
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ProgramError(f"the server at {path} does not let this one take over: {why}") from None


def _take(sock: socket.socket, message: dict[str, Any], descriptors: list[int]) -> Takeover:
    left = dict(enumerate(descriptors))
    try:
        for each in message["listeners"]:
            listener = inheritance.listening_socket(left[each["socket"]])
            if listener is not None:
                del left[each["socket"]]
                lock = None if each["lock"] is None else left.pop(each["lock"])
                inheritance.borrow(inheritance.Given(listener, lock))
        former = [FormerServer(int(message.get("pid", 0)), str(message["version"]), _stream(sock))]
        for each in message.get("former", ()):
            connection = _stream(socket.socket(fileno=left.pop(each["socket"])))
            former.append(FormerServer(int(each["pid"]), str(each["version"]), connection))
        said = message.get("table")
        return Takeover(
            former,
            frozenset(map(str, message.get("linked", ()))),
            None if said is None else _predecessor(left.pop(said["owner"]), said),
            ABLE if "former" in message else b"ready\n",
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"it says {error} in another way than this release") from None
    finally:
        for descriptor in left.values():
            os.close(descriptor)


def _stream(sock: socket.socket) -> trio.SocketStream:
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


def _predecessor(owner: int, said: dict[str, Any]) -> Predecessor:
    # pyroute2 costs memory: it is loaded only where it is used.
    from tunnel_server.intercept.held_table import HeldTable, Predecessor

    try:
        return Predecessor(owner, HeldTable.from_json(said))
    except (KeyError, TypeError, ValueError) as error:
        log.warning("the table of the server before this one is made anew: %s", error)
        return Predecessor(owner, None)
