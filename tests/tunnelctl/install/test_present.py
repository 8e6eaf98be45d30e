"""What an installation that is there was told."""

from ipaddress import ip_network
from typing import Any

from tunnel_server.kube.selector import LabelSelector
from tunnelctl.install.manifests import Options, customised, load, named
from tunnelctl.install.present import Present, present

SELECTORS = (LabelSelector.parse("site=a,!away"), LabelSelector.parse("kind in (x,y)"))
TOLD = Options(
    ("tunnel.example.org:10262",), ("192.168.0.0/16",), "registry/tunnel:2", "node-1",
    edge_selectors=SELECTORS, service_networks=("10.96.0.0/12",), pod_networks=("10.244.0.0/16",),
)  # fmt: skip


def installed(options: Options) -> tuple[Any, Any]:
    objects = customised(load(), options)
    return named(objects, "ConfigMap", "tunnel-server-config"), named(objects, "Deployment", "tunnel-server")


def test_it_is_read_back() -> None:
    assert present(*installed(TOLD)) == Present(
        TOLD.server_addresses,
        (ip_network("192.168.0.0/16"),),
        TOLD.image,
        TOLD.server_node,
        SELECTORS,
        (ip_network("10.96.0.0/12"),),
        (ip_network("10.244.0.0/16"),),
    )


def test_a_versions_own_image_is_no_choice() -> None:
    assert present(*installed(Options((), ()))).image is None


def test_nothing_there_or_nothing_readable() -> None:
    assert present(None, None) == Present()
    assert present({"data": {"server.toml": "x ="}}, None) == Present()
    assert present({}, None) == Present()
