"""SIGTERM and SIGINT stop a process in order; SIGHUP has it read its configuration again."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING

import trio

from tunnel_daemon.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


def ignore_hangups() -> None:
    """Let no SIGHUP end the process before `watch_signals` runs, nor after it.

    For a program that looks at its file by itself then: what the signal was about is not missed. Main thread
    only; programs that are started inherit it.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


async def watch_signals(
    scope: trio.CancelScope,
    *,
    on_hangup: Callable[[], Awaitable[None]] | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Cancel `scope` at the first SIGTERM or SIGINT, and return; call `on_hangup` at each SIGHUP.

    Once returned (or cancelled) the signals have their old meaning again, so that a second one
    ends a process whose orderly stop hangs. Without `on_hangup`, SIGHUP keeps its old meaning.
    What `on_hangup` raises is logged: a bad configuration never stops a running process.
    Main thread only.
    """
    signals = {signal.SIGTERM, signal.SIGINT} | ({signal.SIGHUP} if on_hangup else set())
    with trio.open_signal_receiver(*signals) as received:
        task_status.started()
        async for number in received:
            if number != signal.SIGHUP:
                log.info("stopping", extra={"signal": signal.Signals(number).name})
                scope.cancel()
                return
            if on_hangup:
                await _reload(on_hangup)


async def _reload(on_hangup: Callable[[], Awaitable[None]]) -> None:
    try:
        await on_hangup()
    except SettingsError as error:
        for problem in error.problems:
            log.error("the configuration stays as it was: %s", problem)  # noqa: TRY400 - no traceback
    except Exception:
        log.exception("reading the configuration again failed")
