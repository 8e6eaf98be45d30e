"""Interception, as the server's configuration asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from tunnel_server.intercept.config import InterceptConfig

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from tunnel_server.config import ServerConfig
    from tunnel_server.intercept.held_table import Predecessor
    from tunnel_server.intercept.interception import Interception


def intercept_config(config: ServerConfig) -> InterceptConfig:
    """The part of the configuration that interception is about."""
    by_version = {address.version: address for address in config.prerouting_address}
    return InterceptConfig(
        caller_networks=config.caller_networks,
        prerouting_address4=cast("IPv4Address | None", by_version.get(4)),
        prerouting_address6=cast("IPv6Address | None", by_version.get(6)),
    )


def make_interception(config: ServerConfig, predecessor: Predecessor | None) -> Interception:
    """Interception, not running yet; from what a `predecessor` lends, if there is one."""
    # pyroute2 costs memory: it is loaded only where it is used.
    from tunnel_server.intercept.interception import Interception

    return Interception(intercept_config(config), predecessor)
