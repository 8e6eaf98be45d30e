"""Where the names of servers last led, as a file in the state directory: for a start while DNS is dead.

Nothing depends on it. What cannot be read is as if there were none, and what cannot be written is tried again
later.
"""

from __future__ import annotations

import ipaddress
import json
import logging
from typing import TYPE_CHECKING, NoReturn

import trio

from certs.files import StateDirectory, StateError
from tunnel_agent.lookups import MAX_ADDRESSES
from tunnel_daemon.failure_log import FailureLog

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tunnel_agent.server_names import ServerNames

log = logging.getLogger(__name__)

FILE = "names.json"
_PAUSE = 300.0
"""Seconds between two tries to write: names that always lead somewhere else must not wear out an SD card."""


def load_names(path: Path) -> dict[str, list[str]]:
    """Return the addresses by name that the state directory `path` has; none if they cannot be used."""
    try:
        read = json.loads(StateDirectory(path).read(FILE))
        return {
            str(host): [str(ipaddress.ip_address(each)) for each in addresses[:MAX_ADDRESSES]]
            for host, addresses in read.items()
        }
    except (StateError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        log.debug("where servers were is not known: %s", error)
        return {}


async def keep_names(path: Path, names: ServerNames, loaded: Mapping[str, Sequence[str]]) -> NoReturn:
    """Write to the state directory `path`, of which `loaded` is known, what `names` learns, until cancelled.

    A write that is under way then goes on in its thread: the file is as before, or as after.
    """
    kept, failures = _without_order(loaded), FailureLog(log)
    while True:
        learned, known = names.learned, names.known()
        if _without_order(known) == kept:
            await learned.wait()
            continue
        try:
            await trio.to_thread.run_sync(_write, path, known, abandon_on_cancel=True)
        except (StateError, RuntimeError) as error:  # the latter: the machine has no thread left
            text = f"a start while DNS is dead would wait for it: where servers are is not kept: {error}"
            failures.failed("kept", text)
        else:
            kept = _without_order(known)
            failures.over()
        await trio.sleep(_PAUSE)


def _write(path: Path, known: Mapping[str, list[str]]) -> None:
    with StateDirectory(path).transaction() as transaction:
        transaction.write({FILE: json.dumps(known, indent=1).encode() + b"\n"})


def _without_order(known: Mapping[str, Sequence[str]]) -> dict[str, frozenset[str]]:
    """DNS gives the same addresses in another order each time."""
    return {host: frozenset(addresses) for host, addresses in known.items()}
