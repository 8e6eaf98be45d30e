"""The two places where the demo can stand: network namespaces, as root; loopback, as anybody."""

import contextlib
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunnelctl.demo.topology import Site, Topology

_PORT = 9081


@dataclass(frozen=True)
class Edge:
    """An edge of the demo and its web service."""

    name: str
    address: str | None
    """The node's own, which callers use; None on loopback, which nobody can own."""
    listen: str
    port: int
    url: str
    """How a caller in the cloud reaches the service."""

    @property
    def own_url(self) -> str:
        """How the edge itself does."""
        return f"http://127.0.0.1:{self.port}/"


class Place(ABC):
    """What differs between the two."""

    description: str
    """Once it is open."""
    edges: Sequence[Edge]
    server_address: str
    """In the server's certificate."""
    server: str
    """What agents dial."""
    mapping: str | None
    """For `tunnelctl map-port`, if callers come by interception."""
    agent_config: str
    suggestions: Sequence[tuple[str, str]]
    """What to try, and the command."""

    @abstractmethod
    def open(self, prefix: str) -> contextlib.AbstractContextManager[None]:
        """Make the place, and leave nothing of it."""

    @abstractmethod
    def at(self, host: str, argv: Sequence[str | Path]) -> list[str]:
        """The command line that runs `argv` on `host`."""

    @abstractmethod
    def server_config(self, state: Path, admin_socket: Path) -> str:
        """What to write in server.toml."""


class Namespaces(Place):
    """A cloud, a NAT router and two edges, each a network namespace."""

    server_address = "203.0.113.10"
    server = "203.0.113.10:10262"
    mapping = f"{_PORT}=10264"
    agent_config = ""

    def __init__(self) -> None:
        self.edges = [
            Edge(name, address, "0.0.0.0", _PORT, f"http://{address}:{_PORT}/")  # noqa: S104  the edge's
            for name, address in Site().edges.items()
        ]
        self.suggestions = []
        self._topology: Topology | None = None

    @contextlib.contextmanager
    def open(self, prefix: str) -> Iterator[None]:
        """Build the namespaces. Raises TopologyError."""
        with Topology(prefix) as self._topology:
            url, cloud = self.edges[0].url, f"ip netns exec {self._topology.cloud.namespace}"
            internet = self._topology.host("internet").namespace
            names = [f"{prefix}-{name}" for name in ("cloud", "nat", *(edge.name for edge in self.edges))]
            self.description = f"the namespaces {', '.join(names)} are there: edges dial out, nobody dials in"
            self.suggestions = [
                ("any client, unmodified, at the edge's own address", f"{cloud} curl {url}"),
                ("an upload, measured by the edge", f"head -c 1G /dev/zero | {cloud} curl -T - {url}"),
                ("server-sent events", f"{cloud} curl -N {url}events"),
                ("pull the factory's cable; `up` puts it back", f"ip -n {internet} link set nat down"),
            ]
            yield

    def at(self, host: str, argv: Sequence[str | Path]) -> list[str]:
        """In the host's namespace."""
        assert self._topology is not None
        return self._topology.host(host).command(argv)

    def server_config(self, state: Path, admin_socket: Path) -> str:
        """All defaults, but for the places."""
        return f'state-dir = "{state}"\nadmin-socket = "{admin_socket}"\n'


class Loopback(Place):
    """Server, agents and callers all on 127.0.0.1, reached through fixed listeners."""

    description = "on loopback: a listener of the server's own leads to each edge's service"
    server_address = "127.0.0.1"
    mapping = None
    agent_config = "health-port = 0\n"  # two agents would want the same

    def __init__(self) -> None:
        with contextlib.ExitStack() as held:
            callers = [_free_port(held, 19081), _free_port(held, 19082)]
            services = [_free_port(held), _free_port(held)]
            self._ports = {
                f"{name}-port": _free_port(held) for name in ("tunnel", "secure", "insecure", "meta")
            }
        names = [f"edge-{number}" for number in (1, 2)]
        pairs = list(zip(names, callers, services, strict=True))
        self._listen = [f"127.0.0.1:{caller}={name}:{port}" for name, caller, port in pairs]
        self.edges = [
            Edge(name, None, "127.0.0.1", port, f"http://127.0.0.1:{caller}/") for name, caller, port in pairs
        ]
        self.server = f"127.0.0.1:{self._ports['tunnel-port']}"
        url = self.edges[0].url
        self.suggestions = [
            ("any client", f"curl {url}"),
            ("an upload, measured by the edge", f"head -c 1G /dev/zero | curl -T - {url}"),
            ("server-sent events", f"curl -N {url}events"),
            ("the real thing", "sudo make run"),
        ]

    def open(self, prefix: str) -> contextlib.AbstractContextManager[None]:
        """Nothing has to be made."""
        return contextlib.nullcontext()

    def at(self, host: str, argv: Sequence[str | Path]) -> list[str]:
        """Here."""
        return [str(word) for word in argv]

    def server_config(self, state: Path, admin_socket: Path) -> str:
        """Nothing that needs a privilege, and no port but free ones."""
        listen = ", ".join(f'"{each}"' for each in self._listen)
        ports = "".join(f"{key} = {port}\n" for key, port in self._ports.items())
        return (
            f'state-dir = "{state}"\nadmin-socket = "{admin_socket}"\nintercept = false\n'
            f'bind-address = ["127.0.0.1"]\nlisten = [{listen}]\n{ports}'
        )


def _free_port(held: contextlib.ExitStack, wish: int = 0) -> int:
    """`wish` if it is free, or any port that is; held until the stack closes, so that all differ."""
    try:
        sock = socket.create_server(("127.0.0.1", wish))
    except OSError:
        sock = socket.create_server(("127.0.0.1", 0))
    held.enter_context(sock)
    return int(sock.getsockname()[1])
