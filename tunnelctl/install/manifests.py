"""The objects of an installation: the chart's, as this version ships them and as the user wants them."""

from __future__ import annotations

import copy
import json
import tomllib
from dataclasses import dataclass, fields, replace
from importlib import resources
from typing import TYPE_CHECKING, Any

from tunnel_daemon.toml_lines import key_lines
from tunnel_wire import __version__
from tunnelctl.cluster_arguments import NAMESPACE
from tunnelctl.errors import CommandError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from certs.addresses import IPNetwork
    from tunnel_server.kube.resources import Object
    from tunnel_server.kube.selector import LabelSelector, Requirement

FILE, BY_NAME_FILE = "edge-tunnel.yaml", "edge-tunnel-by-name.yaml"
"""The chart with its defaults, and with `server.byName.enabled`."""
OWN_IMAGE = f"edge-tunnel:{__version__}"
"""The image that the shipped manifests name."""

SERVER, AGENT = "tunnel-server", "tunnel-agent"
"""Names of the Deployment and the DaemonSet."""

SERVER_CONFIG = "tunnel-server-config"
SERVER_FILE = "server.toml"
FURTHER_FILE = "further.toml"
"""What `--config` said, as it was said; it is in force in `SERVER_FILE`."""
AGENT_CONFIG = "tunnel-agent-config"
AGENT_FILE = "agent.toml"

OWN_AGENT = "edge-tunnel.io/own-agent"
"""Label of an edge whose agent is a systemd unit or a static pod."""

_LOOPBACK = ("127.0.0.0/8", "::1/128")
"""From where callers by name are always taken."""


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
    caller_networks: tuple[IPNetwork, ...] | None = None
    """Of callers that are captured on their way through the server's host; None: not said."""
    by_name: tuple[IPNetwork, ...] | None = None
    """Of callers by name, a Service for them, and names for CoreDNS; None: no such way in, or not said."""
    config: str | None = None
    """Further settings of the server, TOML; None: not said."""
    namespace: str = NAMESPACE

    def over(self, before: Options) -> Options:
        """Return these options, and those of `before` where nothing was chosen."""
        chosen = {each.name: getattr(self, each.name) for each in fields(self)}
        unsaid = {each.name: each.default for each in fields(self)}
        return replace(before, **{name: each for name, each in chosen.items() if each != unsaid[name]})


def load(*, by_name: bool = False) -> list[Object]:
    """Return the objects as they are shipped, in the order in which they are to be made."""
    import yaml  # type: ignore[import-untyped]  # comes with `kubernetes`

    text = resources.files("tunnelctl").joinpath("manifests", BY_NAME_FILE if by_name else FILE).read_text()
    return [each for each in yaml.safe_load_all(text) if each]


def customised(shipped: list[Object], options: Options) -> list[Object]:
    """Return copies of the objects as `options` has them."""
    objects = moved(shipped, options.namespace)
    if options.image:
        for each in objects:
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
        ("kubernetes", "namespace"): options.namespace,
    }
    if options.caller_networks:
        settings["caller-networks",] = list(map(str, options.caller_networks))
        first = pod_spec(named(objects, "Deployment", SERVER))["containers"][0]
        first["args"].append("--prerouting-address=$(HOST_IP)")
    if options.by_name is not None:
        settings["direct-networks",] = [*_LOOPBACK, *map(str, options.by_name)]
    if options.edge_selectors:
        settings["kubernetes", "node-selector"] = list(map(str, options.edge_selectors))
        agents = pod_spec(named(objects, "DaemonSet", AGENT))
        agents["affinity"] = {"nodeAffinity": _required(options.edge_selectors)}
    _set(objects, SERVER_CONFIG, SERVER_FILE, settings)
    if options.config:
        _add_further(named(objects, "ConfigMap", SERVER_CONFIG)["data"], options.config)
    _set(objects, AGENT_CONFIG, AGENT_FILE, {("servers",): list(options.server_addresses)})
    return objects


def moved(shipped: list[Object], namespace: str) -> list[Object]:
    """Return copies of the objects in another namespace; what is in none, or in the cluster's, stays."""
    objects = copy.deepcopy(shipped)
    for each in objects:
        metadata = each["metadata"]
        if each["kind"] == "Namespace":
            metadata["name"] = namespace
        for place in (metadata, *each.get("subjects", ())):
            if place.get("namespace") == NAMESPACE:
                place["namespace"] = namespace
    return objects


def _add_further(data: dict[str, str], text: str) -> None:
    """Put further settings where they have to stand: keys before the tables; raises UsageError."""
    try:
        further, own = tomllib.loads(text), tomllib.loads(data[SERVER_FILE])
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"--config: {error}") from None
    if twice := sorted(further.keys() & own.keys()):
        raise UsageError(f"--config: {', '.join(twice)}: install writes that itself, by its own options")
    head, table, rest = data[SERVER_FILE].partition("\n[kubernetes]")
    data[SERVER_FILE] = f"{head}{text.strip()}\n{table}{rest}"
    data[FURTHER_FILE] = text


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
