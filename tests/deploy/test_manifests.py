"""What the shipped manifests promise: what pods may do, and that they agree with the programs in them."""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import tunnel_agent.cli
import tunnel_server.cli
from tunnel_agent.config import AgentConfig
from tunnel_daemon.settings import read_settings
from tunnel_server.config import ServerConfig, load_config
from tunnel_wire import __version__

Object = dict[str, Any]

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "kubernetes"
MANIFESTS = DEPLOY / "edge-tunnel.yaml"
STATIC_POD = DEPLOY / "static-pod" / "tunnel-agent.yaml"
NAMESPACE = "edge-tunnel"


def load(path: Path) -> list[Object]:
    return list(yaml.safe_load_all(path.read_text()))


SHIPPED = load(MANIFESTS)


def one(kind: str, name: str, namespace: str | None = None) -> Object:
    (found,) = [
        each
        for each in SHIPPED
        if each["kind"] == kind
        and each["metadata"]["name"] == name
        and namespace in {None, each["metadata"].get("namespace")}
    ]
    return found


def pod(name: str) -> Object:
    if name == "static":
        (manifest,) = load(STATIC_POD)
        return manifest["spec"]
    kind = "Deployment" if name == "server" else "DaemonSet"
    return one(kind, f"tunnel-{name}")["spec"]["template"]["spec"]


def container(name: str) -> Object:
    (only,) = pod(name)["containers"]
    return only


def every_container() -> Iterator[tuple[Object, Object]]:
    for name in ("server", "agent", "static"):
        spec = pod(name)
        for each in [*spec.get("initContainers", []), *spec["containers"]]:
            yield spec, each


def rules() -> Iterator[tuple[str, Object]]:
    for each in SHIPPED:
        if each["kind"] in {"Role", "ClusterRole"}:
            for rule in each["rules"]:
                yield each["metadata"].get("namespace", ""), rule


def test_every_container_starts_without_what_it_does_not_need() -> None:
    for spec, each in every_container():
        restrictions = each["securityContext"]
        assert restrictions["allowPrivilegeEscalation"] is False, each["name"]
        assert restrictions["readOnlyRootFilesystem"] is True, each["name"]
        assert restrictions["capabilities"]["drop"] == ["ALL"], each["name"]
        assert "privileged" not in restrictions
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["enableServiceLinks"] is False
        assert not {"hostPID", "hostIPC", "shareProcessNamespace"} & spec.keys()
        assert each["resources"]["limits"].keys() == {"memory"}, "a limit of CPU holds up every caller"
        assert each["resources"]["requests"].keys() == {"cpu", "memory"}


def test_the_server_has_one_capability_as_root() -> None:
    restrictions = container("server")["securityContext"]
    assert restrictions["capabilities"]["add"] == ["NET_ADMIN"]
    assert restrictions["runAsUser"] == 0, "nobody else gets a capability from a container runtime"


@pytest.mark.parametrize("name", ["agent", "static"])
def test_an_agent_is_nobody_and_has_no_capability(name: str) -> None:
    restrictions = container(name)["securityContext"]
    assert restrictions["runAsNonRoot"] is True
    assert (restrictions["runAsUser"], restrictions["runAsGroup"]) == (65532, 65532)
    assert "add" not in restrictions["capabilities"]


def test_nothing_of_the_host_is_mounted_but_what_is_said() -> None:
    found = {
        name: [volume["hostPath"]["path"] for volume in pod(name)["volumes"] if "hostPath" in volume]
        for name in ("server", "agent", "static")
    }
    assert found == {
        "server": ["/run/edge-tunnel"],
        "agent": ["/var/lib/edge-tunnel-agent"],
        "static": ["/etc/edge-tunnel", "/var/lib/edge-tunnel-agent"],
    }


@pytest.mark.parametrize("name", ["server", "agent", "static"])
def test_pods_share_the_hosts_network_and_name_every_port(name: str) -> None:
    assert pod(name)["hostNetwork"] is True
    ports = sorted(port["containerPort"] for port in container(name)["ports"])
    config = ServerConfig()
    wanted = [config.tunnel_port, config.secure_port, config.insecure_port, config.meta_port]
    assert ports == (sorted(wanted) if name == "server" else [AgentConfig().health_port])


@pytest.mark.parametrize("name", ["server", "agent", "static"])
def test_probes_ask_where_the_program_answers(name: str) -> None:
    only = container(name)
    probes = {key.removesuffix("Probe"): probe for key, probe in only.items() if key.endswith("Probe")}
    assert probes.keys() == ({"startup"} if name == "server" else set()) | {"liveness", "readiness"}
    port = "meta" if name == "server" else "health"
    for kind, probe in probes.items():
        path = "/readyz" if kind == "readiness" else "/healthz"
        assert probe["httpGet"] == {"host": "127.0.0.1", "path": path, "port": port}
    assert port in {each["name"] for each in only["ports"]}


def test_host_ports_are_free_before_the_next_server_comes() -> None:
    spec = one("Deployment", "tunnel-server")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_a_drain_never_waits() -> None:
    spec = one("PodDisruptionBudget", "tunnel-server")["spec"]
    assert spec["maxUnavailable"] == 1 >= one("Deployment", "tunnel-server")["spec"]["replicas"]
    assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_selectors_select() -> None:
    for kind, name in (("Deployment", "tunnel-server"), ("DaemonSet", "tunnel-agent")):
        spec = one(kind, name)["spec"]
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    server = one("Deployment", "tunnel-server")["spec"]["template"]["metadata"]["labels"]
    assert one("PodDisruptionBudget", "tunnel-server")["spec"]["selector"]["matchLabels"] == server
    assert one("Service", "tunnel-server")["spec"]["selector"] == server
    (static,) = load(STATIC_POD)
    agents = one("DaemonSet", "tunnel-agent")["spec"]["selector"]["matchLabels"]
    assert not agents.items() <= static["metadata"]["labels"].items(), "the DaemonSet would adopt it"


def test_agents_go_to_every_edge_and_stay() -> None:
    spec = pod("agent")
    assert spec["tolerations"] == [{"operator": "Exists"}]
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    selectors = [str(selector.text) for selector in ServerConfig().kubernetes.node_selector]
    assert [f"{term['matchExpressions'][0]['key']}=true" for term in terms["nodeSelectorTerms"]] == selectors
    for term in terms["nodeSelectorTerms"]:
        first, second = term["matchExpressions"]
        assert (first["operator"], first["values"]) == ("In", ["true"])
        assert second == {"key": "edge-tunnel.io/own-agent", "operator": "DoesNotExist"}
    assert spec["dnsPolicy"] == "Default", "the cluster's DNS may be behind the tunnel"
    assert all(each["imagePullPolicy"] == "IfNotPresent" for _, each in every_container()), "offline"


def test_an_agent_has_one_token_which_nothing_but_the_server_takes() -> None:
    spec = pod("agent")
    assert spec["automountServiceAccountToken"] is False
    (token,) = [volume for volume in spec["volumes"] if volume["name"] == "token"]
    (source,) = token["projected"]["sources"]
    assert source == {
        "serviceAccountToken": {"audience": "tunnel", "expirationSeconds": 3600, "path": "token"}
    }
    bound = [
        subject["name"]
        for each in SHIPPED
        if each["kind"].endswith("Binding")
        for subject in each["subjects"]
    ]
    assert set(bound) == {"tunnel-server"}


def test_no_rule_is_wider_than_it_says() -> None:
    for namespace, rule in rules():
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"], rule
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
        assert not any("/" in resource for resource in rule["resources"]), f"a subresource: {rule}"
        if "secrets" in rule["resources"]:
            assert namespace == NAMESPACE, "no Secret of anybody else"
        if namespace == "":
            assert not {"create", "update", "patch", "delete"} & set(rule["verbs"]) or rule["resources"] == [
                "tokenreviews"
            ]


def test_every_rule_says_why() -> None:
    text = MANIFESTS.read_text()
    said = re.findall(r"^  # .*\n  - apiGroups:", text, re.MULTILINE)
    assert len(said) == len(list(rules())) == len(re.findall(r"^  - apiGroups:", text, re.MULTILINE))


def test_the_namespace_says_what_its_pods_need() -> None:
    labels = one("Namespace", NAMESPACE)["metadata"]["labels"]
    levels = {key: value for key, value in labels.items() if key.startswith("pod-security")}
    assert levels == {
        f"pod-security.kubernetes.io/{mode}": "privileged" for mode in ("enforce", "audit", "warn")
    }


@pytest.mark.parametrize(("name", "path"), [("server", tunnel_server.cli), ("agent", tunnel_agent.cli)])
def test_command_lines_are_understood(name: str, path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[argparse.Namespace] = []
    parse = argparse.ArgumentParser.parse_args

    def parse_only(self: argparse.ArgumentParser, *arguments: Any) -> argparse.Namespace:
        parsed.append(parse(self, *arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    # The agent reads a plain command line without one.
    monkeypatch.setattr(tunnel_agent.cli, "plain_flags", lambda *_words, **_others: None)
    static = [container("static")] if name == "agent" else []
    for each in [*pod(name).get("initContainers", []), container(name), *static]:
        program, *words = [*each["command"], *each.get("args", [])]
        assert program == f"tunnel-{name}"
        words = [word.replace("$(NODE_NAME)", "edge-1") for word in words]
        with pytest.raises(KeyboardInterrupt):
            path.main(words)
        assert not re.search(r"\$\(", " ".join(words))
    assert len(parsed) == (1 if name == "server" else 3)


def test_configurations_are_accepted(tmp_path: Path) -> None:
    data = one("ConfigMap", "tunnel-server-config")["data"]
    (file := tmp_path / "server.toml").write_text(data["server.toml"])
    config = load_config(file)
    assert config.kubernetes.enabled
    assert config.kubernetes.namespace == NAMESPACE
    assert list(map(str, config.edge_networks)) == ["192.168.0.0/16"], "which somebody has to change"
    assert config.direct_networks == ServerConfig().direct_networks
    assert config.kubernetes.node_selector == ServerConfig().kubernetes.node_selector

    data = one("ConfigMap", "tunnel-agent-config")["data"]
    (file := tmp_path / "agent.toml").write_text(data["agent.toml"])
    flags = [each.removeprefix("--").split("=") for each in container("agent")["args"] if "=" in each]
    overrides = {key: value for key, value in flags if key != "config"} | {"node-name": "edge-1"}
    agent = read_settings(AgentConfig, file, overrides)
    assert agent.service_account_token, "it attests itself"
    assert [str(each) for each in agent.servers] == [str(each) for each in config.server_addresses]


def test_sockets_and_state_are_where_the_programs_look() -> None:
    mounts = {mount["name"]: mount["mountPath"] for mount in container("server")["volumeMounts"]}
    assert mounts["run"] == str(ServerConfig().admin_socket.parent)
    for name in ("agent", "static"):
        mounts = {mount["name"]: mount["mountPath"] for mount in container(name)["volumeMounts"]}
        assert mounts["state"] == str(AgentConfig().state_dir)


def test_the_version_is_that_of_the_programs() -> None:
    chart = yaml.safe_load((ROOT / "deploy" / "chart" / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__
    assert {each["image"] for _, each in every_container()} == {f"edge-tunnel:{__version__}"}


def test_the_wheel_has_the_same_manifests() -> None:
    assert (ROOT / "tunnelctl" / "manifests" / "edge-tunnel.yaml").read_bytes() == MANIFESTS.read_bytes()


def test_the_schema_knows_every_value() -> None:
    """A value that the schema does not know could not be set; one that has no default would not be found."""
    values = yaml.safe_load((ROOT / "deploy" / "chart" / "values.yaml").read_text())
    schema = json.loads((ROOT / "deploy" / "chart" / "values.schema.json").read_text())

    def compare(where: str, value: Object, of: Object) -> None:
        known = of["properties"].keys() - {"global"}
        assert known == value.keys(), where
        assert of["additionalProperties"] is False, where
        for key, below in of["properties"].items():
            if "properties" in below:
                compare(f"{where}.{key}", value[key], below)

    compare("values", values, schema)
