"""What an installation that is there was told."""

from ipaddress import ip_network
from typing import Any

from tunnelctl.install.manifests import Options, customised, load, named
from tunnelctl.install.present import Present, present

TOLD = Options(("tunnel.example.org:10262",), ("192.168.0.0/16",), "registry/tunnel:2", "node-1")


def installed(options: Options) -> tuple[Any, Any]:
    objects = customised(load(), options)
    return named(objects, "ConfigMap", "tunnel-server-config"), named(objects, "Deployment", "tunnel-server")


def test_it_is_read_back() -> None:
    networks = (ip_network("192.168.0.0/16"),)
    assert present(*installed(TOLD)) == Present(TOLD.server_addresses, networks, TOLD.image, TOLD.server_node)


def test_a_versions_own_image_is_no_choice() -> None:
    assert present(*installed(Options((), ()))).image is None


def test_nothing_there_or_nothing_readable() -> None:
    assert present(None, None) == Present()
    assert present({"data": {"server.toml": "x ="}}, None) == Present()
    assert present({}, None) == Present()
