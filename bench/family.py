"""Ends every process of a family for certain, and no other: also those that lost parent or group."""

import os
import select
import signal
from collections.abc import Generator
from contextlib import contextmanager, suppress

from bench.accounting import descendants

GONE_S = 3.0


@contextmanager
def family_ends(*roots: int) -> Generator[None, None, None]:
    """Around whatever ends the roots politely: who of their descendants is left after it is killed.

    Held by pidfd meanwhile, so that nobody else who gets a number anew is hit.
    """
    held = []
    for pid in descendants(roots):
        with suppress(ProcessLookupError):
            held.append(os.pidfd_open(pid))
    try:
        yield
    finally:
        for process in held:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
        for process in held:
            select.select([process], [], [], GONE_S)  # readable once it has ended
            os.close(process)
