"""`HOST:PORT` as a value: server addresses and proxies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from certs.addresses import format_endpoint, parse_endpoint

SERVER_PORT = 10262


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host (name or address, IPv6 without brackets) and a port."""

    FORM: ClassVar[str] = 'HOST:PORT, like "tunnel.example.org:10262"'

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read `HOST`, `HOST:PORT`, `[IPV6]:PORT` or a bare IPv6 address; ValueError says what is wrong."""
        return cls(*parse_endpoint(text, SERVER_PORT))

    def __str__(self) -> str:
        return format_endpoint(self.host, self.port)
