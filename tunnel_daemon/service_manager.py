"""What a service tells the service manager that runs it: sd_notify(3)."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def notify(state: str) -> None:
    """Tell systemd, as `MAINPID=123`; nothing where nobody listens (a unit without NotifyAccess=main)."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] in {"/", "@"}:
        with (
            suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.sendto(state.encode(), path.replace("@", "\0", 1) if path.startswith("@") else path)
