"""The ConfigMap for CoreDNS in a real Kubernetes API: kept, written when it changes, never taken over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from tests.e2e.cluster.followed import Followed, followed
from tunnel_server.kube.resources import CONFIG_MAPS, NODES, SERVICES, NamespacedName

if TYPE_CHECKING:
    from tests.e2e.cluster.control_plane import ControlPlane


def _service(control: ControlPlane, namespace: str) -> str:
    spec = {"ports": [{"port": 10250, "targetPort": 10263}]}
    about = {"name": "tunnel-server-internal", "namespace": namespace}
    control.apply({"apiVersion": "v1", "kind": "Service", "metadata": about, "spec": spec})
    words = ["get", "service", about["name"], "-n", namespace, "-o", "jsonpath={.spec.clusterIP}"]
    return control.kubectl(*words)


def _kept(made: Followed, namespace: str) -> dict[str, Any]:
    found, _ = made.admin.list_all(CONFIG_MAPS, namespace, fields="metadata.name=names")
    return found[0] if found else {}


async def test_it_follows_nodes(apiserver: ControlPlane, namespace: str) -> None:
    settings = {"names_configmap": NamespacedName(namespace, "names"), "namespace": namespace}
    async with followed(apiserver, **settings) as made:
        made.add("cp-n", "192.168.1.1", edge=False)
        try:
            made.add("edge-n", "192.168.2.1", Hostname="kubernetes.default.svc")
            assert "the Service that names lead to is not there" in made.following.notes()["kubernetes names"]
            assert _kept(made, namespace) == {}
            address = _service(apiserver, namespace)
            wanted = f"192.168.1.1\tcp-n\n{address}\tedge-n\n"
            await made.until(lambda: _kept(made, namespace).get("data") == {"tunnel-nodes": wanted})
            assert made.following.notes() == {}
            version = _kept(made, namespace)["metadata"]["resourceVersion"]
            # Nothing that it says: no write.
            made.admin.merge(NODES, "edge-n", {"metadata": {"labels": {"what": "ever"}}})
            await made.until(lambda: "what" in made.following.watches["nodes"].objects["edge-n"].labels)
            await trio.sleep(0.5)
            assert _kept(made, namespace)["metadata"]["resourceVersion"] == version
            made.remove("edge-n")
            await made.until(
                lambda: _kept(made, namespace)["data"] == {"tunnel-nodes": "192.168.1.1\tcp-n\n"}
            )
            made.admin.delete(SERVICES, "tunnel-server-internal", namespace)
            await made.until(lambda: "kubernetes names" in made.following.notes())
        finally:
            made.remove("cp-n")


async def test_somebody_elses_is_left_to_them(apiserver: ControlPlane, namespace: str) -> None:
    _service(apiserver, namespace)
    fields = {"data": {"tunnel-nodes": "192.0.2.1\tedge-x\n"}}
    settings = {"names_configmap": NamespacedName(namespace, "names"), "namespace": namespace}
    async with followed(apiserver, **settings) as made:
        await made.until(lambda: bool(_kept(made, namespace)))
        made.admin.delete(CONFIG_MAPS, "names", namespace)
        made.admin.apply(CONFIG_MAPS, "names", fields, namespace, manager="yurt-tunnel-server")
        made.add("edge-x", "192.168.2.1")
        await made.until(lambda: "kubernetes names" in made.following.notes())
        note = made.following.notes()["kubernetes names"]
        assert 'conflict with "yurt-tunnel-server"' in note
        assert "somebody else manages this field: have them leave it, or remove the object" in note
        assert _kept(made, namespace)["data"] == fields["data"]
        made.admin.delete(CONFIG_MAPS, "names", namespace)
        await made.until(lambda: made.following.notes() == {})
        assert "edge-x" in _kept(made, namespace)["data"]["tunnel-nodes"]
