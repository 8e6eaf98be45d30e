"""The Unix socket for HTTP CONNECT: who may use it, and how many at once."""

from __future__ import annotations

import logging
import os
import stat
from typing import TYPE_CHECKING

import trio

from tunnel_server.admin.unix_socket import admin_listener, peer_credentials

if TYPE_CHECKING:
    from pathlib import Path

    from tunnel_server.frontends.connect import ConnectFrontend

log = logging.getLogger(__name__)

_OWNER_ONLY = stat.S_IRUSR | stat.S_IWUSR
_ANYBODY = _OWNER_ONLY | stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH


class ConnectSocket:
    """Serves CONNECT at a path, to root, to the server's own user, and to the users named."""

    def __init__(self, frontend: ConnectFrontend, uids: tuple[int, ...]) -> None:
        self.uids = uids
        """Users besides root and the server's own. Replaced as a whole when they change."""
        self._frontend = frontend

    async def serve(
        self, path: Path, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled; ProgramError if that is not possible.

        The file is its owner's alone, unless other users are named when it is made: then anybody may
        connect, and each connection's user is checked in any case.
        """
        mode = _ANYBODY if self.uids else _OWNER_ONLY
        with admin_listener(path, mode=mode, setting="connect-socket") as listener:
            task_status.started()
            await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            uid = peer_credentials(stream).uid
            if uid not in {0, os.geteuid(), *self.uids}:
                why = f"user {uid} may not use connect-socket: see connect-uids"
                log.warning(why)
                await self._frontend.refuse_local(stream, why)
                return
            await self._frontend.serve_local(stream, uid)
        except OSError:
            await trio.aclose_forcefully(stream)
        except Exception:
            # One caller's defect must not end the others.
            log.exception("serving a caller of connect-socket failed")
            await trio.aclose_forcefully(stream)
