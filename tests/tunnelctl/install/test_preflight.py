"""What speaks against an installation, as far as the objects that were found say it."""

from ipaddress import ip_network
from typing import Any

from tunnelctl.checks import Check, State
from tunnelctl.install.manifests import OWN_AGENT, load
from tunnelctl.install.preflight import ClusterSurvey, check_cluster

EDGES = (ip_network("192.168.0.0/16"),)


def judged(*names: str) -> list[Check]:
    """What is said of edges, and of a host for the server."""
    nodes = [node(name, f"192.168.0.{number}") for number, name in enumerate(names, 1)]
    host = node("cp-1", "10.0.0.10")
    survey = ClusterSurvey([host, *nodes], [host], nodes, [], None, [])
    return list(check_cluster(survey, load(), EDGES))


def node(name: str, address: str) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "True"}
    status = {"addresses": [{"type": "InternalIP", "address": address}], "conditions": [ready]}
    return {"metadata": {"name": name}, "spec": {}, "status": status}


def test_a_cluster_that_is_as_it_should_be() -> None:
    assert {each.state for each in judged("edge-1", "10-0-0-7.factory.example")} == {State.OK}


def test_nodes_that_are_named_by_an_address() -> None:
    (found,) = [each for each in judged("192.168.2.143", "edge-1", "192.168.2.144") if each.state != State.OK]
    assert found.state is State.WARNING
    assert found.text.endswith("refused: 192.168.2.143, 192.168.2.144")
    assert f"{OWN_AGENT}=systemd" in found.remedy
