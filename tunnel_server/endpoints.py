"""Addresses with ports, as server.toml has them: where agents dial, and where a fixed listener leads."""

from dataclasses import dataclass
from typing import ClassVar, Self

from certs.addresses import format_endpoint, parse_address, parse_endpoint
from certs.identity import check_node_name


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where agents reach this server from outside, which the server itself can't know."""

    FORM: ClassVar[str] = '"HOST:PORT", like "tunnel.example.org:10262"'

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``HOST`` or ``HOST:PORT``, IPv6 in brackets; raises ValueError."""
        try:
            return cls(*parse_endpoint(text, 10262))
        except ValueError as error:
            raise ValueError(f"{error}; the form is {cls.FORM}") from None

    def __str__(self) -> str:
        return format_endpoint(self.host, self.port)


@dataclass(frozen=True, slots=True)
class FixedListener:
    """A local address and port whose connections go to one port of one node."""

    FORM: ClassVar[str] = (
        '"ADDRESS:PORT=NODE:PORT", like "127.0.0.1:9081=edge-1:9081" or "[::1]:80=edge-1:80"'
    )

    host: str
    port: int
    node: str
    target_port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the form; raises ValueError naming the entry."""
        local, equals, remote = text.partition("=")
        host, _, _ = local.strip().rpartition(":")
        node, _, target_port = remote.strip().rpartition(":")
        if not equals or not host or not node:
            raise ValueError(f'"{text}" is not {cls.FORM}')
        if (":" in host) != (host.startswith("[") and host.endswith("]")):
            raise ValueError(f'"{text}": write an IPv6 address in brackets; the form is {cls.FORM}')
        try:
            address, number = parse_endpoint(local.strip(), 0)
            parse_address(address)
            check_node_name(node)
            return cls(address, number, node, _port(target_port))
        except ValueError as error:
            raise ValueError(f'"{text}": {error}; the form is {cls.FORM}') from None

    def __str__(self) -> str:
        return f"{format_endpoint(self.host, self.port)}={self.node}:{self.target_port}"


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:6]) < 65536:
        raise ValueError(f'"{text}" is not a port (1 to 65535)')
    return int(text)
