"""The objects of an installation: the chart's, as this version ships them and as the user wants them."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, fields, replace
from importlib import resources
from typing import TYPE_CHECKING, Any

from tunnel_daemon.toml_lines import key_lines
from tunnel_wire import __version__
from tunnelctl.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from certs.addresses import IPNetwork
    from tunnel_server.kube.resources import Object
    from tunnel_server.kube.selector import LabelSelector, Requirement

FILE = "edge-tunnel.yaml"
OWN_IMAGE = f"edge-tunnel:{__version__}"
"""The image that the shipped manifests name."""

SERVER, AGENT = "tunnel-server", "tunnel-agent"
"""Names of the Deployment and the DaemonSet."""

SERVER_CONFIG = "tunnel-server-config"
SERVER_FILE = "server.toml"
AGENT_CONFIG = "tunnel-agent-config"
AGENT_FILE = "agent.toml"

OWN_AGENT = "edge-tunnel.io/own-agent"
"""Label of an edge whose agent is a systemd unit or a static pod."""

MANAGED_BY = "app.kubernetes.io/managed-by"
TOOL = "tunnelctl"


@dataclass(frozen=True, slots=True)
class Options:
    """What the user may choose; what is empty was not chosen."""

    server_addresses: tuple[str, ...] = ()
    """HOST:PORT each, where agents dial."""
    edge_networks: tuple[IPNetwork, ...] = ()
    image: str = ""
    server_node: str = ""
    """The only node that the server may run on."""
    edge_selectors: tuple[LabelSelector, ...] = ()
    """A node that any of them matches is an edge."""
    service_networks: tuple[IPNetwork, ...] = ()
    pod_networks: tuple[IPNetwork, ...] = ()
    """What an edge's address is never in, where the cluster does not say so itself."""

    def over(self, before: Options) -> Options:
        """Return these options, and those of `before` where nothing was chosen."""
        chosen = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(before, **{name: value for name, value in chosen.items() if value})


def load() -> list[Object]:
    """Return the objects as they are shipped, in the order in which they are to be made."""
    import yaml  # type: ignore[import-untyped]  # comes with `kubernetes`

    text = resources.files("tunnelctl").joinpath("manifests", FILE).read_text()
    return [each for each in yaml.safe_load_all(text) if each]


def customised(shipped: list[Object], options: Options) -> list[Object]:
    """Return copies of the objects as `options` has them."""
    objects = copy.deepcopy(shipped)
    for each in objects:
        each["metadata"].setdefault("labels", {})[MANAGED_BY] = TOOL
        if options.image:
            _set_image(each, options.image)
    if options.server_node:
        spec = pod_spec(named(objects, "Deployment", SERVER))
        spec.pop("affinity", None)
        # Not nodeName: that would pass the scheduler by, and its look at ports and room.
        spec["nodeSelector"] = {"kubernetes.io/hostname": options.server_node}
    settings: dict[tuple[str, ...], Any] = {
        ("server-addresses",): list(options.server_addresses),
        ("edge-networks",): list(map(str, options.edge_networks)),
        ("kubernetes", "service-networks"): list(map(str, options.service_networks)),
        ("kubernetes", "pod-networks"): list(map(str, options.pod_networks)),
    }
    if options.edge_selectors:
        settings["kubernetes", "node-selector"] = list(map(str, options.edge_selectors))
        agents = pod_spec(named(objects, "DaemonSet", AGENT))
        agents["affinity"] = {"nodeAffinity": _required(options.edge_selectors)}
    _set(objects, SERVER_CONFIG, SERVER_FILE, settings)
    _set(objects, AGENT_CONFIG, AGENT_FILE, {("servers",): list(options.server_addresses)})
    return objects


def _required(selectors: tuple[LabelSelector, ...]) -> dict[str, Any]:
    """Return the node affinity of the agents: any of the selectors, and no agent of the edge's own."""
    own = {"key": OWN_AGENT, "operator": "DoesNotExist"}
    terms = [{"matchExpressions": [*map(_expression, each.requirements), own]} for each in selectors]
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}


def _expression(requirement: Requirement) -> dict[str, Any]:
    if requirement.values is None:
        return {"key": requirement.key, "operator": "Exists" if requirement.positive else "DoesNotExist"}
    operator = "In" if requirement.positive else "NotIn"
    return {"key": requirement.key, "operator": operator, "values": sorted(requirement.values)}


def named(objects: list[Object], kind: str, name: str) -> Object:
    """Return one of the objects; raises CommandError where this version ships none such."""
    for each in objects:
        if each["kind"] == kind and each["metadata"]["name"] == name:
            return each
    raise CommandError(f"{FILE} of this edge-tunnel has no {kind} {name}: its installation is damaged")


def pod_spec(workload: Object) -> dict[str, Any]:
    """Return the pod that a Deployment or a DaemonSet makes."""
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def set_values(toml: str, values: dict[tuple[str, ...], Any]) -> str:
    """Return a TOML document with other values for keys that it has, each on one line, comments kept."""
    lines = toml.split("\n")
    places = key_lines(toml)
    for path, value in values.items():
        number = places.get(path)
        if number is None:
            raise CommandError(f"{FILE} has no setting {'.'.join(path)}: its installation is damaged")
        key, _, _ = lines[number - 1].partition("=")
        # Of what install sets, JSON's form is TOML's.
        lines[number - 1] = f"{key.rstrip()} = {json.dumps(value)}"
    return "\n".join(lines)


def _containers(manifest: Object) -> Iterator[dict[str, Any]]:
    if manifest["kind"] in {"Deployment", "DaemonSet"}:
        spec = pod_spec(manifest)
        yield from spec.get("initContainers", ())
        yield from spec["containers"]


def _set_image(manifest: Object, image: str) -> None:
    for container in _containers(manifest):
        if container["image"] == OWN_IMAGE:
            container["image"] = image


def _set(objects: list[Object], config: str, file: str, values: dict[tuple[str, ...], Any]) -> None:
    data = named(objects, "ConfigMap", config)["data"]
    data[file] = set_values(data[file], values)
