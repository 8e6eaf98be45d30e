"""Serving the admin API for as long as the server runs."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import trio

from tunnel_daemon.http_service import serve_http
from tunnel_server.admin.api import AdminApi, AdminSources
from tunnel_server.admin.unix_socket import admin_listener, peer_credentials

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_CONNECTIONS = 16
OWNER_ONLY = stat.S_IRUSR | stat.S_IWUSR
ANYBODY = OWNER_ONLY | stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH


async def serve_admin(
    path: Path,
    sources: AdminSources,
    *,
    admin_uids: Sequence[int] = (),
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the admin API at `path` until cancelled; ProgramError if that is not possible.

    The socket is its owner's (0600). Only where other users are configured may everybody connect:
    each connection's user is checked against the list in any case.
    """
    mode = ANYBODY if admin_uids else OWNER_ONLY
    with admin_listener(path, mode=mode) as listener:
        task_status.started()
        await serve_http(
            [listener],
            AdminApi(sources, admin_uids=admin_uids),
            peer=peer_credentials,
            max_connections=MAX_CONNECTIONS,
        )
