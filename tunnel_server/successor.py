"""Starting the server that takes over from this one: the same command again, as it is installed now."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from functools import partial

import trio

log = logging.getLogger(__name__)

_TAKE_OVER = "--take-over"
# Not our child: it outlives us, and whoever reaps for the machine reaps it.
_DETACH = "import subprocess, sys; subprocess.Popen(sys.argv[1:])"


def command() -> list[str]:
    """The command line that takes over from this process."""
    words = [sys.executable, *sys.orig_argv[1:]]
    return words if _TAKE_OVER in words else [*words, _TAKE_OVER]


async def start_successor() -> None:
    """Start it. What becomes of it, both processes' logs say; if it does not come up, this one goes on."""
    if os.getpid() == 1:
        log.error("this server is process 1, with which its container ends: it cannot be replaced in there")
        return
    log.info("starting the server that takes over: %s", " ".join(command()))
    start = partial(trio.run_process, check=False, stdin=subprocess.DEVNULL)
    try:
        await start([sys.executable, "-c", _DETACH, *command()])
    except OSError as error:
        log.error("no server that takes over can be started: %s", error)  # noqa: TRY400
