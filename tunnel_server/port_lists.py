"""The configured lists of ports, with the meaning that yurt-tunnel's ConfigMap gave them.

`dnat-ports-pair`, `http-proxy-ports` and `https-proxy-ports` say which ports of the edges are captured, and
for which listener; a port in several of them follows the last of these. `localhost-proxy-ports` captures
nothing: it says which ports the agents dial on their own loopback. An entry is a port or a range of ports,
`8000-8010`; blanks, empty entries and repetitions do no harm. What cannot be is named, entry by entry, and
the others stand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunnel_server.mappings import (
    INSECURE_PORT,
    KUBELET_PLAIN,
    KUBELET_TLS,
    MAX_MAPPINGS,
    SECURE_PORT,
    MappingError,
    check_mapping,
    check_number,
    port_number,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

PAIRS, HTTP, HTTPS = "dnat-ports-pair", "http-proxy-ports", "https-proxy-ports"
LOCALHOST = "localhost-proxy-ports"

_SHOWN = 40
"""Characters of an entry that are repeated in a message about it."""


@dataclass(frozen=True, slots=True)
class PortLists:
    """What the four lists come to."""

    captured: Mapping[int, int]
    """Port of the edges to port of the listener; without the built-in ones."""
    localhost: frozenset[int]
    problems: tuple[str, ...]
    """A line for each entry that does not count, with its list and the reason."""


def read_port_lists(
    pairs: str = "",
    http: str = "",
    https: str = "",
    localhost: str = "",
    *,
    insecure_port: int = INSECURE_PORT,
    secure_port: int = SECURE_PORT,
) -> PortLists:
    """Read the lists, the stronger first: https, http, pairs (yurt-tunnel 0.5.0). Never raises."""
    captured: dict[int, int] = {}
    loopback: set[int] = set()

    def capture(port: int, target: int) -> None:
        if port in {KUBELET_TLS, KUBELET_PLAIN}:
            raise MappingError("is built in and cannot be changed: remove the entry")
        check_mapping(port, target, insecure_port, secure_port)
        if captured.get(port, target) != target:
            raise MappingError(f"names port {port} again: {port}={captured[port]} stands")
        _check_room(port, captured)
        captured[port] = target

    def dial_locally(port: int, _target: int) -> None:
        _check_room(port, loopback)
        loopback.add(port)

    problems = [
        *_read(HTTPS, https, secure_port, capture),
        *_read(HTTP, http, insecure_port, capture),
        *_read(PAIRS, pairs, insecure_port, capture, pairs="=" in pairs),
        *_read(LOCALHOST, localhost, 0, dial_locally),
    ]
    return PortLists(captured, frozenset(loopback), tuple(problems))


def _read(
    key: str, text: str, target: int, take: Callable[[int, int], None], *, pairs: bool = False
) -> Iterator[str]:
    """Hand each port of a list, and where it leads, to `take`; yield a line for what cannot be."""
    for entry in filter(None, (part.strip() for part in text.split(","))):
        shown = f'{key}: "{entry[:_SHOWN]}"'
        left, equals, right = (part.strip() for part in entry.partition("="))
        try:
            if pairs and not equals:
                raise MappingError(f"is not a pair, but other entries are: write {left[:20]}={target}")
            if equals and not pairs:
                raise MappingError(f"is a pair, and this list has ports only: write {left[:20]}")
            ports = _ports(left)
            to = port_number(right) if pairs else target
        except MappingError as problem:
            yield f"{shown} {problem}"
            continue
        for port in ports:
            try:
                take(port, to)
            except MappingError as problem:
                yield f"{shown} {problem}" if len(ports) == 1 else f"{shown}: {port} {problem}"


def _ports(text: str) -> range:
    low, dash, high = (part.strip() for part in text.partition("-"))
    if not (low and dash):
        port = port_number(text)
        return range(port, port + 1)
    first, last = port_number(low), port_number(high)
    if first > last:
        raise MappingError(f"is no range: {first} is above {last}")
    if last - first >= MAX_MAPPINGS:
        raise MappingError(f"has {last - first + 1} ports, and {MAX_MAPPINGS} can be mapped: name fewer")
    return range(first, last + 1)


def _check_room(port: int, taken: Mapping[int, int] | set[int]) -> None:
    if port not in taken:
        check_number(len(taken))
