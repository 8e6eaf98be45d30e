"""Port mappings: which ports of the edges are captured, and which listener each goes to.

Three origins, the earlier winning: built in (the kubelet's 10250 and 10255), configured (see `port_lists`),
and added while running (`tunnelctl map-port`), which are kept in `mappings.json` of the state directory.
Nothing is dropped in silence, and a bad entry never disables a good one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from certs.files import StateError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from certs.state import Change, State

INSECURE_PORT, SECURE_PORT = 10264, 10263
KUBELET_TLS, KUBELET_PLAIN = 10250, 10255
OWN_PORTS = frozenset(range(10262, 10266))
"""The server's. An agent's 10266 may be captured: with `localhost-proxy-ports` its metrics are read so."""
MAX_MAPPINGS = 1024
"""Of one origin. A server that needs more wants a range of ports, which the table does not have."""

_FILE = "mappings.json"


class MappingError(ValueError):
    """A mapping that cannot be; the message is one line with the remedy."""


class Origin(StrEnum):
    """Where a mapping comes from."""

    BUILT_IN = "built-in"
    CONFIGURED = "configured"
    ADDED = "added"


@dataclass(frozen=True, slots=True)
class PortMapping:
    """One captured port."""

    port: int
    listener_port: int
    origin: Origin


def check_mapping(port: int, listener_port: int, insecure_port: int, secure_port: int) -> None:
    """Raise MappingError if the port of an edge may not be captured for this listener."""
    if not 0 < port < 65536:
        raise MappingError(f"names port {port}: ports are 1 to 65535")
    if listener_port not in {insecure_port, secure_port}:
        raise MappingError(
            f"leads to port {listener_port}: "
            f"the listeners are {insecure_port} (plain) and {secure_port} (TLS)"
        )
    if port in OWN_PORTS | {insecure_port, secure_port}:
        raise MappingError(f"would capture {port}, a port of the tunnel itself: choose another")


def check_number(mapped: int) -> None:
    """Raise MappingError if there is no room for one more."""
    if mapped >= MAX_MAPPINGS:
        raise MappingError(f"is beyond the {MAX_MAPPINGS} ports that can be mapped: remove another")


def port_number(text: str) -> int:
    """Return a port written in decimal digits; raises MappingError."""
    if not (text.isascii() and text.isdigit()) or len(text) > 9 or not 0 < int(text) < 65536:
        raise MappingError(f'names "{text[:20]}", which is not a port from 1 to 65535')
    return int(text)


class PortMappings:
    """The mappings in force, and those added at run time on disk. One process changes them: the server."""

    def __init__(
        self,
        state: State,
        configured: Mapping[int, int] | None = None,
        *,
        insecure_port: int = INSECURE_PORT,
        secure_port: int = SECURE_PORT,
    ) -> None:
        """Read what was added earlier. Raises MappingError, naming the file, if it is not one of ours.

        `problems` then has a line for each entry in it that does not count.
        """
        self._state = state
        self._configured = dict(configured or {})
        self._listeners = {"plain": insecure_port, "tls": secure_port}
        self._unreadable: list[str] = []
        self._added = self._load() if state.exists(_FILE) else {}

    def read_again(self) -> None:
        """Another server has changed them until now. Raises MappingError."""
        self._unreadable.clear()
        self._added = self._load() if self._state.exists(_FILE) else {}

    @property
    def problems(self) -> list[str]:
        """A line for each entry of the file that does not count."""
        place = self._state.place(_FILE)
        fixed = self._built_in() | self._configured
        return self._unreadable + [
            f'{place}: "{port}" is configured now, and what was added does not count'
            for port in sorted(self._added)
            if port in fixed
        ]

    def configure(self, configured: Mapping[int, int]) -> Mapping[int, int]:
        """Take these in place of the configured ones; returns those."""
        before, self._configured = self._configured, dict(configured)
        return before

    def effective(self) -> dict[int, int]:
        """What to capture: port of the edge to port of the listener."""
        added = {port: self._listeners[kind] for port, kind in self._added.items()}
        return {**added, **self._configured, **self._built_in()}

    def describe(self) -> list[PortMapping]:
        """Each mapping in force with its origin, by port."""
        built_in = self._built_in()
        return [
            PortMapping(
                port,
                target,
                Origin.BUILT_IN
                if port in built_in
                else Origin.CONFIGURED
                if port in self._configured
                else Origin.ADDED,
            )
            for port, target in sorted(self.effective().items())
        ]

    def add(self, port: int, listener_port: int) -> bool:
        """Map a port from now on, restarts included; False if it was so already.

        Raises MappingError and StateError, with nothing changed. Blocks on the disk: from trio, in a thread.
        """
        insecure_port, secure_port = self._listeners.values()
        try:
            self._check_not_fixed(port)
            check_mapping(port, listener_port, insecure_port, secure_port)
            if port not in self._added:
                check_number(len(self._added))
        except MappingError as problem:
            raise MappingError(f"{port}={listener_port} {problem}") from None
        kind = "plain" if listener_port == insecure_port else "tls"
        if self._added.get(port) == kind:
            return False
        self._save({**self._added, port: kind})
        return True

    def remove(self, port: int) -> None:
        """Map it no more. Raises MappingError, also if it is not mapped, and StateError. Blocks likewise."""
        try:
            self._check_not_fixed(port)
            self._check_added(port)
        except MappingError as problem:
            raise MappingError(f"{port} {problem}") from None
        self._save({other: kind for other, kind in self._added.items() if other != port})

    def _built_in(self) -> dict[int, int]:
        return {KUBELET_TLS: self._listeners["tls"], KUBELET_PLAIN: self._listeners["plain"]}

    def _check_not_fixed(self, port: int) -> None:
        if port in self._built_in():
            raise MappingError("is built in and cannot be changed")
        if port in self._configured:
            raise MappingError(
                "is configured in dnat-ports-pair, http-proxy-ports or https-proxy-ports: change it there"
            )

    def _check_added(self, port: int) -> None:
        if port not in self._added:
            raise MappingError("is not mapped: `tunnelctl map-port --list` shows what is")

    def _save(self, added: dict[int, str]) -> None:
        # The kind of listener is kept, not its port: that may be another after the next restart.
        document = {"version": 1, "added": {str(port): kind for port, kind in sorted(added.items())}}

        def write(change: Change) -> None:
            change.write({_FILE: json.dumps(document, indent=1).encode() + b"\n"})

        self._state.change(write)
        self._added = added

    def _load(self) -> dict[int, str]:
        place = self._state.place(_FILE)
        entries = _read_file(self._state)
        insecure_port, secure_port = self._listeners.values()
        added: dict[int, str] = {}
        for text, kind in entries.items():
            try:
                port = port_number(text)
                check_mapping(port, self._listener(kind), insecure_port, secure_port)
                check_number(len(added))
            except MappingError as problem:
                self._unreadable.append(f'{place}: "{text[:40]}" {problem}')
                continue
            added[port] = str(kind)
        return added

    def _listener(self, kind: object) -> int:
        if not isinstance(kind, str) or kind not in self._listeners:
            raise MappingError("leads to no listener that there is (plain, tls)")
        return self._listeners[kind]


def _read_file(state: State) -> dict[str, object]:
    try:
        document: Any = json.loads(state.read(_FILE))
        version, entries = document["version"], dict(document["added"])
    except StateError as error:
        raise MappingError(str(error)) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MappingError(
            f"{state.place(_FILE)} is not a file of port mappings: mend it, or remove it and map the ports "
            "again"
        ) from None
    if version != 1:
        raise MappingError(f"{state.place(_FILE)} is of version {version}, which this release cannot read")
    return entries
