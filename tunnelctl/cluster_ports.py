"""`tunnelctl map-port` in a cluster: the pairs of ports in the ConfigMap that its servers watch.

Written by server-side apply, as the manager `tunnelctl`: what somebody else keeps there, by kubectl or by a
deployment tool, is not taken from them unless that is asked for.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tunnelctl.cluster_state import open_cluster_state, server_config
from tunnelctl.errors import CommandError, RefusedError

if TYPE_CHECKING:
    from tunnel_server.config import ServerConfig
    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import NamespacedName, Object
    from tunnel_server.port_lists import PortLists
    from tunnelctl.cluster_state import ClusterPlace

MANAGER = "tunnelctl"
_TRIES = 5


class ClusterPorts:
    """The lists of ports of one cluster, as its servers read them. Raises CommandError, StateError."""

    def __init__(self, place: ClusterPlace, *, force: bool = False) -> None:
        """Take the cluster, and whether keys of other managers are taken over."""
        from tunnel_server.config import ServerConfig

        state = open_cluster_state(place)
        self._cluster: Cluster = state.cluster
        self._config: ServerConfig = server_config(state) or ServerConfig()
        self.where: NamespacedName = self._config.kubernetes.port_configmap
        """The ConfigMap."""
        self._force = force

    def listed(self) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
        """Return the mappings as the admin API has them, and a line for each entry that does not count."""
        lists = self._lists(self._read())
        return self._views(lists), lists.problems

    def add(self, port: int, listener_port: int | None) -> tuple[list[dict[str, Any]], bool]:
        """Map a port; returns the mappings then, and whether anything changed."""
        target = self._config.insecure_port if listener_port is None else listener_port
        return self._change(port, target)

    def remove(self, port: int) -> list[dict[str, Any]]:
        """Map it no more; returns the mappings then."""
        return self._change(port, None)[0]

    def _change(self, port: int, target: int | None) -> tuple[list[dict[str, Any]], bool]:
        from tunnel_server.kube.failures import ApiFailure
        from tunnel_server.kube.resources import CONFIG_MAPS
        from tunnel_server.kube.state import unusable
        from tunnel_server.kube.state_layout import LABELS
        from tunnel_server.port_lists import PAIRS
        from tunnelctl.install.ownership import is_ours

        for _ in range(_TRIES):
            found = self._read()
            before = self._lists(found)
            if target is not None and self._captured(before).get(port) == target:
                return self._views(before), False
            text = self._edited(found, before, port, target)
            after = self._lists({**(found or {}), "data": {**((found or {}).get("data") or {}), PAIRS: text}})
            if added := [each for each in after.problems if each not in before.problems]:
                raise RefusedError(f"{added[0]}; nothing was changed")
            about = {"resourceVersion": found["metadata"]["resourceVersion"]} if found else {}
            if found is None or is_ours(found):
                about["labels"] = LABELS
            try:
                self._cluster.apply(
                    CONFIG_MAPS,
                    self.where.name,
                    {"metadata": about, "data": {PAIRS: text}},
                    self.where.namespace,
                    manager=MANAGER,
                    force=self._force,
                )
            except ApiFailure as failure:
                if failure.status != 409:
                    raise unusable(failure) from None
                if "Apply failed" in str(failure):
                    raise self._kept(str(failure)) from None
                continue  # changed since it was read
            return self._views(after), True
        raise CommandError(f"ConfigMap {self.where} is changed by others all the time: try again")

    def _edited(self, found: Object | None, lists: PortLists, port: int, target: int | None) -> str:
        """The pairs with `port` leading to `target`, or without it; raises RefusedError."""
        from tunnel_server.port_lists import PAIRS

        data = (found or {}).get("data") or {}
        entries = _pairs(data.get(PAIRS, self._config.dnat_ports_pair), self._config.insecure_port)
        kept = [each for each in entries if each.partition("=")[0].strip() != str(port)]
        if target is not None:
            kept.append(f"{port}={target}")
            if len(kept) > len(entries) and port in self._captured(lists):
                raise self._elsewhere(lists, port)
        elif len(kept) == len(entries):
            if port in self._captured(lists):
                raise self._elsewhere(lists, port)
            raise RefusedError(f"{port} is not mapped: `tunnelctl map-port --list` shows what is")
        return ", ".join(kept)

    def _elsewhere(self, lists: PortLists, port: int) -> RefusedError:
        if port not in lists.captured:
            return RefusedError(f"{port} is built in and cannot be changed")
        return RefusedError(
            f"{port} leads to {lists.captured[port]} by a range or by another list of ConfigMap "
            f"{self.where}, or of the server's configuration: change it there, "
            f"kubectl -n {self.where.namespace} edit configmap {self.where.name}"
        )

    def _kept(self, said: str) -> RefusedError:
        from tunnel_server.port_lists import PAIRS

        managers = ", ".join(dict.fromkeys(re.findall(r'with "([^"]+)"', said))) or "somebody else"
        return RefusedError(
            f"{PAIRS} of ConfigMap {self.where} is kept by {managers}: change it there, so that it is not "
            "changed back, or take it over with --force-conflicts; nothing was changed"
        )

    def _read(self) -> Object | None:
        from tunnel_server.kube.failures import ApiFailure
        from tunnel_server.kube.resources import CONFIG_MAPS
        from tunnel_server.kube.state import unusable

        try:
            return self._cluster.get(CONFIG_MAPS, self.where.name, self.where.namespace)
        except ApiFailure as failure:
            if failure.status == 404:
                return None
            raise unusable(failure) from None

    def _lists(self, found: Object | None) -> PortLists:
        from tunnel_server.kube.port_config import port_lists, read_port_config

        return port_lists(self._config, None if found is None else read_port_config(found), self.where)

    def _captured(self, lists: PortLists) -> dict[int, int]:
        from tunnel_server.mappings import KUBELET_PLAIN, KUBELET_TLS

        built_in = {KUBELET_TLS: self._config.secure_port, KUBELET_PLAIN: self._config.insecure_port}
        return {**lists.captured, **built_in}

    def _views(self, lists: PortLists) -> list[dict[str, Any]]:
        return [
            {
                "port": port,
                "listener_port": target,
                "source": "configured" if port in lists.captured else "built-in",
            }
            for port, target in sorted(self._captured(lists).items())
        ]


def _pairs(text: str, insecure_port: int) -> list[str]:
    """The entries of a list of pairs; of a list of ports, which leads to the plain listener, pairs."""
    entries = [each for each in (part.strip() for part in text.split(",")) if each]
    return entries if "=" in text else [f"{each}={insecure_port}" for each in entries]
