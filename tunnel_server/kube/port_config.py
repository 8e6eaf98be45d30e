"""The ConfigMap with the lists of ports, as yurt-tunnel has it: what it says, and what of that cannot be.

A key that it has counts instead of the server's own list of that name; without the ConfigMap, the server's
own lists are in force. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tunnel_server.port_lists import HTTP, HTTPS, LOCALHOST, PAIRS, PortLists, read_port_lists

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tunnel_server.config import ServerConfig
    from tunnel_server.kube.resources import NamespacedName, Object

_KEYS = (PAIRS, HTTP, HTTPS, LOCALHOST)


@dataclass(frozen=True, slots=True)
class PortConfig:
    """What is kept of the ConfigMap."""

    uid: str
    lists: Mapping[str, str]
    """Those of the four keys that it has."""


def read_port_config(item: Object) -> PortConfig:
    """Take the four keys of a ConfigMap; whatever else is in it is somebody else's."""
    data = item.get("data") or {}
    about = item.get("metadata") or {}
    return PortConfig(str(about.get("uid", "")), {key: str(data[key]) for key in _KEYS if key in data})


def port_lists(config: ServerConfig, found: PortConfig | None, where: NamespacedName) -> PortLists:
    """The lists in force. What cannot be is named with the ConfigMap, where it stands there."""
    if found is None:
        return config.port_lists()
    own = {
        PAIRS: config.dnat_ports_pair,
        HTTP: config.http_proxy_ports,
        HTTPS: config.https_proxy_ports,
        LOCALHOST: config.localhost_proxy_ports,
    }
    texts = {**own, **found.lists}
    lists = read_port_lists(
        texts[PAIRS],
        texts[HTTP],
        texts[HTTPS],
        texts[LOCALHOST],
        insecure_port=config.insecure_port,
        secure_port=config.secure_port,
    )
    place = f"ConfigMap {where}: "
    return replace(
        lists,
        problems=tuple(
            f"{place}{each}" if each.partition(":")[0] in found.lists else each for each in lists.problems
        ),
    )


def problems_in(lists: PortLists, where: NamespacedName) -> list[str]:
    """The problems that stand in the ConfigMap, without its name."""
    place = f"ConfigMap {where}: "
    return [each.removeprefix(place) for each in lists.problems if each.startswith(place)]
