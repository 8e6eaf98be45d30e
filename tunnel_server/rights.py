"""What a caller may reach: nodes, ports, and whether what is no edge. Nothing, unless it is configured.

The names are those of caller certificates, `spiffe://DOMAIN/caller/NAME`. `local` stands for the users of the
Unix sockets, who may reach every node; no certificate speaks for it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Self

from certs.identity import Identity, Role, check_name
from tunnel_daemon.settings import setting
from tunnel_daemon.settings_values import Network

LOCAL = "local"
_GLOB = re.compile(r"[a-z0-9.*?-]{1,253}")


@dataclass(frozen=True, slots=True)
class NodeGlob:
    """Names of nodes, by a pattern of shell wildcards."""

    FORM: ClassVar[str] = 'the name of a node, or a pattern of names like "edge-*"'

    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a pattern of lower-case letters, digits, `-`, `.`, `*` and `?`; raises ValueError."""
        if not _GLOB.fullmatch(text):
            raise ValueError(f'"{text}" is not {cls.FORM}')
        return cls(text)

    def __str__(self) -> str:
        return self.text

    def __contains__(self, name: str) -> bool:
        return fnmatchcase(name, self.text)


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports of a node, both ends included."""

    FORM: ClassVar[str] = 'a port, a range, or any: "9100", "8000-8100", "*"'

    low: int
    high: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the form; raises ValueError."""
        if text.strip() == "*":
            return cls(1, 65535)
        low, dash, high = (part.strip() for part in text.partition("-"))
        ends = (low, high if dash else low)
        if not all(end.isascii() and end.isdigit() and 1 <= int(end[:6]) <= 65535 for end in ends):
            raise ValueError(f'"{text}" is not {cls.FORM}')
        found = cls(*map(int, ends))
        if found.low > found.high:
            raise ValueError(f'"{text}" is an empty range; write {found.high}-{found.low}')
        return found

    def __str__(self) -> str:
        if (self.low, self.high) == (1, 65535):
            return "*"
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"

    def __contains__(self, port: int) -> bool:
        return self.low <= port <= self.high


@dataclass(frozen=True, kw_only=True, slots=True)
class CallerRights:
    """What one caller may reach."""

    nodes: tuple[NodeGlob, ...] | None = setting(
        None, doc="nodes, by name or pattern; without the key none, but every one for `local`", live=True
    )
    ports: tuple[PortRange, ...] | None = setting(
        None, doc="ports of these nodes; without the key none, but every one for `local`", live=True
    )
    direct: bool = setting(
        False, doc="may also reach, from the server's host, what belongs to no edge", live=True
    )
    direct_special: tuple[Network, ...] = setting(
        (),
        doc="networks that `direct` covers although they are loopback, link-local, a metadata service's, the "
        "server host's own, or inside edge-networks",
        live=True,
    )

    def refusal(self, node: str, port: int) -> str | None:
        """Return why this caller may not reach `port` of `node`, or None if it may."""
        if not any(node in glob for glob in self.nodes or ()):
            return f"this caller has no right to {node}"
        if not any(port in ports for ports in self.ports or ()):
            return f"this caller has no right to port {port} of {node}"
        return None


NOTHING = CallerRights()
EVERY_NODE = CallerRights(nodes=(NodeGlob("*"),), ports=(PortRange(1, 65535),))


class Rights:
    """The configured rights of all callers."""

    def __init__(self, callers: Mapping[str, CallerRights]) -> None:
        self.callers = callers
        """By name. Replaced as a whole when they change; what is open stays open."""

    def of(self, caller: Identity | None) -> CallerRights:
        """The rights of a caller's verified identity; None is a permitted user of a Unix socket."""
        if caller is None:
            local = self.callers.get(LOCAL, NOTHING)
            return CallerRights(
                nodes=EVERY_NODE.nodes if local.nodes is None else local.nodes,
                ports=EVERY_NODE.ports if local.ports is None else local.ports,
                direct=local.direct,
                direct_special=local.direct_special,
            )
        if caller.role is not Role.CALLER or caller.name == LOCAL:
            return NOTHING
        return self.callers.get(caller.name, NOTHING)


def check_caller_name(name: str) -> None:
    """Raise ValueError unless `[callers.NAME]` can be that of a caller."""
    check_name(name)
