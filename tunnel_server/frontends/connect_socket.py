"""The Unix socket for HTTP CONNECT: who may use it, and how many at once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from tunnel_daemon.descriptors import Acceptor
from tunnel_server.admin.unix_socket import admin_listener, peer_credentials

if TYPE_CHECKING:
    from pathlib import Path

    from tunnel_server.admin.unix_socket import SocketUsers
    from tunnel_server.frontends.connect import ConnectFrontend

log = logging.getLogger(__name__)


class ConnectSocket:
    """Serves CONNECT at a path to the users of `users`, who may change meanwhile."""

    def __init__(self, frontend: ConnectFrontend, users: SocketUsers) -> None:
        self._users = users
        self._frontend = frontend

    async def serve(
        self, path: Path, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled; ProgramError if that is not possible.

        If somebody closes the listener, until the last that was let in has ended.
        """
        with admin_listener(path, self._users, setting="connect-socket") as listener:
            task_status.started()
            acceptor = Acceptor(listener, "a caller of connect-socket")
            async with trio.open_nursery() as nursery:
                while True:
                    try:
                        stream = await acceptor.accept()
                    except trio.ClosedResourceError:
                        return
                    nursery.start_soon(self._serve, stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            uid = peer_credentials(stream).uid
            if uid not in self._users:
                why = f"user {uid} may not use connect-socket: see connect-uids"
                await self._frontend.refuse_local(stream, uid, why)
                return
            await self._frontend.serve_local(stream, uid)
        except OSError:
            await trio.aclose_forcefully(stream)
        except Exception:
            # One caller's defect must not end the others.
            log.exception("serving a caller of connect-socket failed")
            await trio.aclose_forcefully(stream)
