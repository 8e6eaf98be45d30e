"""What one edge's kubelet can write of itself, with its own credentials, and what it gains by it: nothing.

Whoever has taken an edge has those. The authorizer Node and the admission plugin NodeRestriction let them
change the Node's status, most of its labels, and a podCIDR that is not set yet.
"""

from __future__ import annotations

import itertools
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.e2e.cluster.followed import Followed, followed, pinned
from tunnel_server.frontends.naming import Naming
from tunnel_server.kube.resources import NODES
from tunnel_server.kube.settings import DEFAULT_NODE_SELECTOR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.cluster.control_plane import ControlPlane

PROTECTED = "node-restriction.kubernetes.io/edge-tunnel"
VICTIM, EVIL = "192.168.2.1", "192.168.2.66"
_count = itertools.count(1)


class Thief:
    """Has the credentials of one Node's kubelet, and no others."""

    def __init__(self, control: ControlPlane, name: str) -> None:
        self.name = name
        self._control = control
        self._credentials: Path = control.as_user(f"system:node:{name}", "system:nodes")

    def patch(self, change: dict[str, Any]) -> None:
        self._kubectl("patch", "node", self.name, "-p", json.dumps(change))

    def addresses(self, *listed: tuple[str, str]) -> None:
        node = json.loads(self._kubectl("get", "node", self.name, "-o", "json"))
        del node["metadata"]["resourceVersion"]
        node["status"]["addresses"] = [{"type": kind, "address": text} for kind, text in listed]
        self._kubectl(
            "replace", "--raw", f"/api/v1/nodes/{self.name}/status", "-f", "-", stdin=json.dumps(node)
        )

    def _kubectl(self, *words: str, stdin: str | None = None) -> str:
        return self._control.kubectl(*words, kubeconfig=self._credentials, stdin=stdin)

    def label(self, label: str) -> str:
        """Label it; return why that was refused."""
        done = self._control.try_kubectl(
            "label", "node", self.name, "--overwrite", label, kubeconfig=self._credentials
        )
        return done.stderr if done.returncode else ""


@contextmanager
def thief(made: Followed) -> Iterator[Thief]:
    """One whose Node is an edge, beside edge-1."""
    name = f"evil-{next(_count)}"
    made.add("edge-1", VICTIM)
    made.add(name, EVIL)
    try:
        yield Thief(made.control, name)
    finally:
        made.remove(name)  # it may have no label by which it would be found


async def test_it_has_no_other_names(apiserver: ControlPlane) -> None:
    async with followed(apiserver) as made:
        with thief(made) as evil:
            await made.until(lambda: len(made.held()) == 2)
            names = [
                "kubernetes.default.svc",
                "registry-1.docker.io",
                "9100.edge-1",
                "edge-1.edges.example.org",
            ]
            for name in names:
                evil.addresses(("InternalIP", EVIL), ("Hostname", name), ("InternalDNS", name))
            evil.addresses(("InternalIP", "192.168.2.67"), *(("Hostname", name) for name in names))
            await made.until(lambda: made.whose("192.168.2.67") == evil.name)
            naming = Naming(made.registry, name_suffix="edges.example.org")
            assert not any(map(naming.knows, names[:2]))
            assert naming.find("edge-1.edges.example.org", 10250).node.name == "edge-1"
            assert naming.split_port("9100.edge-1", 10250) == ("edge-1", 9100)


async def test_its_pod_range_takes_nobodys_address(apiserver: ControlPlane) -> None:
    async with followed(apiserver) as made:
        with thief(made) as evil:
            await made.until(lambda: made.whose(VICTIM) == "edge-1")
            evil.patch({"spec": {"podCIDR": "192.168.0.0/16", "podCIDRs": ["192.168.0.0/16"]}})
            await made.until_told(evil.name, "PodRangeIgnored", "podCIDR 192.168.0.0/16")
            assert made.whose(VICTIM) == "edge-1"
            # Nor as a Node that is no edge: the range cannot be taken back, but the label can.
            assert not evil.label(f"e2e={made.label}-no-more")
            await made.until(lambda: evil.name not in made.held())
            assert made.whose(VICTIM) == "edge-1"


async def test_a_pin_is_not_overruled_by_taking_off_a_label(apiserver: ControlPlane) -> None:
    async with followed(apiserver) as made:
        with thief(made) as evil:
            await made.until(lambda: made.whose(VICTIM) == "edge-1")
            config = pinned(made.config, edge_1=VICTIM)
            made.registry.claims.rules.pins = config.pins()
            made.registry.review()
            made.following.configure(config)
            evil.addresses(("InternalIP", VICTIM))
            await made.until_told(evil.name, "AddressRefused", f"{VICTIM} is pinned to edge-1")
            assert not evil.label("e2e-")
            await made.until(lambda: evil.name not in made.held())
            await trio.sleep(0.3)
            assert made.whose(VICTIM) == "edge-1"


async def test_a_label_that_its_kubelet_cannot_change(apiserver: ControlPlane) -> None:
    """Default labels: with this one an edge stays an edge, whatever its kubelet does to yurt-tunnel's."""
    async with followed(apiserver, node_selector=DEFAULT_NODE_SELECTOR) as made:
        with thief(made) as evil:
            made.admin.merge(NODES, evil.name, {"metadata": {"labels": {PROTECTED: "true"}}})
            await made.until(lambda: made.whose(EVIL) == evil.name)
            for label in (f"{PROTECTED}-", f"{PROTECTED}=false"):
                assert "is not allowed to modify labels: " + PROTECTED in evil.label(label)
            assert not evil.label("openyurt.io/is-edge-worker=false")
            evil.addresses(("InternalIP", EVIL), ("InternalIP", "192.168.2.67"))
            await made.until(lambda: made.whose("192.168.2.67") == evil.name)


async def test_what_it_changes_all_the_time_is_not_told_all_the_time(apiserver: ControlPlane) -> None:
    async with followed(apiserver) as made:
        with thief(made) as evil:
            await made.until(lambda: evil.name in made.registry.nodes)
            for number in range(5):
                first = number * 16
                evil.addresses(*(("InternalIP", f"203.0.113.{first + each}") for each in range(16)))
                await made.until(
                    lambda first=first: any(  # type: ignore[misc]
                        str(each) == f"203.0.113.{first}" for each in made.registry.nodes[evil.name].refused
                    )
                )
            made.add("edge-2", "203.0.113.200")
            await made.until_told("edge-2", "AddressRefused", "203.0.113.200 is outside the edge networks")
            assert len(made.events(evil.name)) <= 26
            assert 'edge_tunnel_kubernetes_events_total{outcome="dropped"}' in made.counted()


pytestmark = pytest.mark.timeout(60)
