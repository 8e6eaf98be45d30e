"""What an installation that is there was told."""

from ipaddress import ip_network
from typing import Any

from tunnel_server.kube.selector import LabelSelector
from tunnelctl.install.manifests import Options, customised, load, named
from tunnelctl.install.present import present

SELECTORS = (LabelSelector.parse("site=a,!away"), LabelSelector.parse("kind in (x,y)"))
TOLD = Options(
    server_addresses=("tunnel.example.org:10262",),
    edge_networks=(ip_network("192.168.0.0/16"),),
    image="registry/tunnel:2",
    server_node="node-1",
    edge_selectors=SELECTORS,
    service_networks=(ip_network("10.96.0.0/12"),),
    pod_networks=(ip_network("10.244.0.0/16"),),
    caller_networks=(ip_network("10.244.0.0/16"),),
    by_name=(ip_network("10.50.0.0/24"),),
    config='resume-grace = "30s"\n[callers.local]\ndirect = true\n',
)


def installed(options: Options) -> tuple[Any, Any]:
    objects = customised(load(by_name=options.by_name is not None), options)
    return named(objects, "ConfigMap", "tunnel-server-config"), named(objects, "Deployment", "tunnel-server")


def test_it_is_read_back() -> None:
    assert present(*installed(TOLD)) == TOLD


def test_a_versions_own_image_is_no_choice() -> None:
    assert present(*installed(Options())).image == ""


def test_nothing_there_or_nothing_readable() -> None:
    assert present(None, None) == Options()
    assert present({"data": {"server.toml": "x ="}}, None) == Options()
    assert present({}, None) == Options()


def test_what_is_chosen_comes_before_what_was() -> None:
    wished = Options(image="other:1", server_addresses=("a:1",))
    merged = wished.over(TOLD)
    assert (merged.image, merged.server_addresses) == ("other:1", ("a:1",))
    assert (merged.edge_networks, merged.edge_selectors) == (TOLD.edge_networks, SELECTORS)


def test_what_was_chosen_can_be_taken_back() -> None:
    merged = Options(caller_networks=(), config="").over(TOLD)
    assert (merged.caller_networks, merged.config, merged.by_name) == ((), "", TOLD.by_name)
    assert present(*installed(merged)).caller_networks is None
