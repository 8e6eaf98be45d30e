"""Serving the admin API for as long as the server runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tunnel_daemon.http_service import serve_http
from tunnel_server.admin.api import AdminApi, AdminSources
from tunnel_server.admin.unix_socket import Credentials, SocketUsers, admin_listener, peer_credentials

if TYPE_CHECKING:
    from pathlib import Path

MAX_CONNECTIONS = 16


async def serve_admin(
    path: Path,
    sources: AdminSources,
    *,
    users: SocketUsers | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the admin API at `path` until cancelled, without `users` to root and the server's own user.

    Who may not use it is told so before anything is read, and takes no place. Raises ProgramError if that
    is not possible.
    """
    users = users or SocketUsers()
    api = AdminApi(sources, users)

    def admitted(stream: trio.SocketStream) -> Credentials:
        credentials = peer_credentials(stream)
        api.check(credentials)
        return credentials

    with admin_listener(path, users) as listener:
        task_status.started()
        await serve_http(
            [listener],
            api,
            peer=admitted,
            max_connections=MAX_CONNECTIONS,
        )
