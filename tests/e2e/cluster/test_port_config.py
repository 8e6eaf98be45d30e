"""The ConfigMap with the lists of ports, in a real Kubernetes API: edited, wrong, and gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.cluster.followed import Followed, followed

if TYPE_CHECKING:
    from tests.e2e.cluster.control_plane import ControlPlane


def _write(made: Followed, **data: str) -> str:
    where = made.config.kubernetes.port_configmap
    about = {"name": where.name, "namespace": where.namespace}
    keys = {key.replace("_", "-"): text for key, text in data.items()}
    made.control.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": keys})
    return where.name


async def test_edited_wrong_and_gone(apiserver: ControlPlane) -> None:
    async with followed(apiserver) as made:
        await made.until(lambda: bool(made.lists))
        assert dict(made.lists[-1].captured) == {9081: 10264}
        name = _write(made, dnat_ports_pair="9051=10264", https_proxy_ports="9443", else_="unknown")
        # What it does not say, the server's own configuration does.
        await made.until(lambda: made.lists[-1].captured == {9081: 10264, 9051: 10264, 9443: 10263})
        _write(made, http_proxy_ports="8080, nonsense, 10250", localhost_proxy_ports="10266")
        await made.until(lambda: made.lists[-1].captured == {8080: 10264})
        assert made.lists[-1].localhost == {10266}
        place = f"ConfigMap kube-system/{name}: http-proxy-ports: "
        assert [each.startswith(place) for each in made.lists[-1].problems] == [True, True]
        for text in ('"nonsense" names "nonsense", which is not a port', '"10250" is built in'):
            await made.until_told(name, "PortRefused", f"http-proxy-ports: {text}", "kube-system")
        made.control.kubectl("delete", "configmap", name, "-n", "kube-system")
        await made.until(lambda: made.lists[-1].captured == {9081: 10264})
        assert made.lists[-1].localhost == frozenset()


async def test_it_is_there_from_the_start(apiserver: ControlPlane) -> None:
    async with followed(apiserver) as first:
        _write(first, http_proxy_ports="8080")
        where = first.config.kubernetes.port_configmap
        async with followed(apiserver, port_configmap=where) as made:
            assert made.following.port_lists(made.config).captured == {8080: 10264}
            await made.until(lambda: len(made.lists) == 1)
        first.control.kubectl("delete", "configmap", where.name, "-n", where.namespace)
