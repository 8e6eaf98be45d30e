"""Joins two ends: bytes, ends and resets, both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tunnelctl.ends import EndFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnelctl.ends import End

_TURN = 1024 * 1024
"""Bytes that go one way before other tasks get their turn."""
_LAST_BYTES = 1.0
"""Seconds that what came before a reset has to get through."""


async def relay(near: End, far: End) -> str:
    """Carry bytes both ways until both directions have ended, and close both ends.

    Returns "" for a proper end. When one end is reset, the other gets what came before, then a reset, and
    what happened is returned. Cancelled, both are reset.
    """
    failures: list[tuple[End, str]] = []
    clean = False
    try:
        async with trio.open_nursery() as nursery:
            scope = nursery.cancel_scope

            def failed(end: End, why: str) -> None:
                failures.append((end, why))
                scope.cancel()

            def reset_unnoticed(end: End) -> None:
                # Nobody need be reading or writing it just then. What came before gets a bounded time.
                failures.append((end, "it was reset"))
                scope.deadline = trio.current_time() + _LAST_BYTES

            near.watch(lambda: reset_unnoticed(near))
            far.watch(lambda: reset_unnoticed(far))
            nursery.start_soon(_copy, near, far, failed)
            nursery.start_soon(_copy, far, near, failed)
        clean = not failures
        if failures:
            await (near if failures[0][0] is far else far).drain()
    finally:
        near.close(reset=not clean)
        far.close(reset=not clean)
    return failures[0][1] if failures else ""


async def _copy(source: End, sink: End, failed: Callable[[End, str], None]) -> None:
    turn = 0
    while True:
        try:
            data = await source.receive()
        except EndFailed as error:
            failed(source, str(error))
            return
        try:
            if not data:
                await sink.finish()
                return
            await sink.send(data)
        except EndFailed as error:
            failed(sink, str(error))
            return
        turn += len(data)
        if turn >= _TURN:
            turn = 0
            await trio.lowlevel.checkpoint()
