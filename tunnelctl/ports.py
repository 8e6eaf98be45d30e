"""Nodes and ports as the command line takes them, `8888:80` among them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Forward:
    """A local port, 0 for any free one, and the node's."""

    local: int
    remote: int

    @classmethod
    def parse(cls, text: str) -> Forward:
        """Read `8888:80`, `80` (the same here), or `:80` (any free one here); raises ArgumentTypeError."""
        left, colon, right = text.partition(":")
        try:
            if not colon:
                return cls(_port(left), _port(left))
            return cls(_port(left) if left else 0, _port(right))
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no LOCAL:REMOTE: write 8888:80, 80 or :80, ports 1 to 65535"
            ) from None


def port_argument(text: str) -> int:
    """Read a port; raises ArgumentTypeError."""
    try:
        return _port(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (1 to 65535)") from None


def node_argument(text: str) -> str:
    """Read a node's name; raises ArgumentTypeError."""
    from certs.identity import check_name

    try:
        check_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def host_argument(text: str) -> str:
    """Read a node's name, or an address that leads to a node; raises ArgumentTypeError."""
    from certs.addresses import parse_address

    if ":" not in text:
        return node_argument(text)  # which an IPv4 address passes
    try:
        return str(parse_address(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:6]) < 65536:
        raise ValueError(text)
    return int(text)
