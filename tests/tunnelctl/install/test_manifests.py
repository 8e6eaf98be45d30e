"""The shipped objects, as a user wants them."""

import tomllib
from ipaddress import ip_network
from typing import Any

import pytest

from tunnel_server.kube.selector import LabelSelector
from tunnelctl.errors import CommandError, UsageError
from tunnelctl.install.manifests import Options, customised, load, named, pod_spec, set_values
from tunnelctl.install.scheduling import selection

SERVERS = ("tunnel.example.org:10262", "[fd00::1]:10262")
OPTIONS = Options(SERVERS, (ip_network("192.168.0.0/16"),), "registry/tunnel:2", "node-1")


def test_what_is_shipped_takes_every_option() -> None:
    objects = customised(load(), OPTIONS)
    server = tomllib.loads(named(objects, "ConfigMap", "tunnel-server-config")["data"]["server.toml"])
    assert server["server-addresses"] == ["tunnel.example.org:10262", "[fd00::1]:10262"]
    assert server["edge-networks"] == ["192.168.0.0/16"]
    assert server["kubernetes"]["enabled"] is True
    agent = tomllib.loads(named(objects, "ConfigMap", "tunnel-agent-config")["data"]["agent.toml"])
    assert agent["servers"] == server["server-addresses"]
    workloads = [each for each in objects if each["kind"] in {"Deployment", "DaemonSet"}]
    images = {
        c["image"]
        for each in workloads
        for kind in ("initContainers", "containers")
        for c in pod_spec(each).get(kind, ())
    }
    assert images == {"registry/tunnel:2"}
    spec = pod_spec(named(objects, "Deployment", "tunnel-server"))
    assert spec["nodeSelector"] == {"kubernetes.io/hostname": "node-1"}
    assert "affinity" not in spec


def test_other_edges() -> None:
    selectors = (LabelSelector.parse("site in (b,a),!away"), LabelSelector.parse("edge"))
    objects = customised(load(), Options(edge_selectors=selectors))
    spec = pod_spec(named(objects, "DaemonSet", "tunnel-agent"))
    assert selection(spec) == [
        "site In a, b and no away and no edge-tunnel.io/own-agent",
        "edge and no edge-tunnel.io/own-agent",
    ]
    server = tomllib.loads(named(objects, "ConfigMap", "tunnel-server-config")["data"]["server.toml"])
    assert server["kubernetes"]["node-selector"] == ["site in (b,a),!away", "edge"]


def test_the_shipped_objects_themselves_stay() -> None:
    shipped = load()
    assert customised(shipped, OPTIONS) != shipped
    assert shipped == load()


def test_what_is_not_chosen_stays() -> None:
    objects = customised(load(), Options())
    before = pod_spec(named(load(), "Deployment", "tunnel-server"))
    assert pod_spec(named(objects, "Deployment", "tunnel-server")) == before


def test_a_setting_is_one_line() -> None:
    text = '# first\na = [1]\n[t]\na = "x"  # of t\n'
    assert set_values(text, {("a",): ["y"], ("t", "a"): 5}) == '# first\na = ["y"]\n[t]\na = 5\n'
    with pytest.raises(CommandError, match=r"has no setting t\.b"):
        set_values(text, {("t", "b"): 1})


def server_toml(objects: list[Any]) -> dict[str, Any]:
    return tomllib.loads(named(objects, "ConfigMap", "tunnel-server-config")["data"]["server.toml"])


def arguments(objects: list[Any]) -> list[str]:
    found: list[str] = pod_spec(named(objects, "Deployment", "tunnel-server"))["containers"][0]["args"]
    return found


def test_callers_on_their_way_through_the_host() -> None:
    objects = customised(load(), Options(caller_networks=(ip_network("10.244.0.0/16"),)))
    assert server_toml(objects)["caller-networks"] == ["10.244.0.0/16"]
    assert "--prerouting-address=$(HOST_IP)" in arguments(objects)
    assert "--prerouting-address=$(HOST_IP)" not in arguments(customised(load(), Options(caller_networks=())))


def test_callers_by_name() -> None:
    objects = customised(load(by_name=True), Options(by_name=(ip_network("10.50.0.0/24"),)))
    settings = server_toml(objects)
    assert settings["direct-networks"] == ["127.0.0.0/8", "::1/128", "10.50.0.0/24"]
    assert settings["kubernetes"]["names-configmap"] == "kube-system/yurt-tunnel-nodes"
    assert named(objects, "Service", "tunnel-server-internal")
    assert "--direct-address=$(HOST_IP)" in arguments(objects)


def test_further_settings_stand_where_they_have_to() -> None:
    objects = customised(load(), Options(config='resume-grace = "30s"\n[callers.local]\ndirect = true\n'))
    settings = server_toml(objects)
    assert settings["resume-grace"] == "30s"
    assert settings["callers"]["local"] == {"direct": True}
    assert settings["kubernetes"]["enabled"] is True


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("edge-networks = []", "edge-networks: install writes that itself"),
        ("[kubernetes]\nenabled = false", "kubernetes: install writes"),
        ("x =", "--config: Invalid value"),
    ],
)
def test_further_settings_that_cannot_be(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        customised(load(), Options(config=text))


def test_another_namespace() -> None:
    objects = customised(load(by_name=True), Options(namespace="tunnel", by_name=()))
    assert named(objects, "Namespace", "tunnel")
    places = {each["metadata"].get("namespace") for each in objects}
    assert places == {None, "tunnel", "kube-system", "default"}
    subjects = [each for found in objects for each in found.get("subjects", ())]
    assert {each["namespace"] for each in subjects} == {"tunnel"}
    assert server_toml(objects)["kubernetes"]["namespace"] == "tunnel"
