"""SIGTERM and SIGINT stop a process in order; SIGHUP: read the configuration; SIGUSR2: be replaced."""

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
    """Let no SIGHUP, nor SIGUSR2, end the process before `watch_signals` runs, nor after it.

    For a program that looks at its file by itself then: what the signal was about is not missed. Main thread
    only; programs that are started inherit it.
    """
    for number in (signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


async def watch_signals(
    scope: trio.CancelScope,
    *,
    on_hangup: Callable[[], Awaitable[None]] | None = None,
    on_replace: Callable[[], Awaitable[None]] | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Cancel `scope` at the first SIGTERM or SIGINT, and return.

    Call `on_hangup` at each SIGHUP, `on_replace` at each SIGUSR2; without, they keep their old meaning.
    Once returned (or cancelled) the signals have their old meaning again, so that a second one
    ends a process whose orderly stop hangs. What the calls raise is logged: a bad configuration never
    stops a running process.
    Main thread only.
    """
    calls = {
        number: call
        for number, call in ((signal.SIGHUP, on_hangup), (signal.SIGUSR2, on_replace))
        if call is not None
    }
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, *calls) as received:
        task_status.started()
        async for number in received:
            call = calls.get(signal.Signals(number))
            if call is None:
                log.info("stopping", extra={"signal": signal.Signals(number).name})
                scope.cancel()
                return
            await _do(call)


async def _do(call: Callable[[], Awaitable[None]]) -> None:
    try:
        await call()
    except SettingsError as error:
        for problem in error.problems:
            log.error("the configuration stays as it was: %s", problem)  # noqa: TRY400 - no traceback
    except Exception:
        log.exception("what the signal asked for failed")
