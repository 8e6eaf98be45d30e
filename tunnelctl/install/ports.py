"""Who has the ports that ours need on a host: pods anywhere, and other programs where this runs."""

from __future__ import annotations

import socket
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tunnel_daemon.port_owner import find_owner
from tunnel_server.kube.references import DEPLOYMENTS
from tunnel_server.kube.resources import DAEMON_SETS
from tunnelctl.checks import Check, State
from tunnelctl.install.manifests import AGENT, SERVER, SERVER_CONFIG, SERVER_FILE, named, pod_spec
from tunnelctl.install.scheduling import addresses, host_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunnel_server.kube.resources import Object
    from tunnelctl.install.preflight import ClusterSurvey

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_YURT_TUNNEL = frozenset({10262, 10263, 10264, 10265})
"""Its server's, which its manifests do not list."""


def check_ports(
    survey: ClusterSurvey, objects: list[Object], namespace: str, *, replace: bool
) -> Iterator[Check]:
    """Judge whether others hold the ports that ours need on a host."""
    places = _places(objects)
    freed = {each.reference.name for each in survey.yurt_tunnel} if replace else set()
    everywhere = True
    problems = []
    for kind, name, nodes in (
        (DEPLOYMENTS.kind, SERVER, survey.hosts),
        (DAEMON_SETS.kind, AGENT, survey.edges),
    ):
        wanted = host_ports(pod_spec(named(objects, kind, name)))
        for node in nodes:
            pods = [each for each in survey.pods if each["spec"].get("nodeName") == node["metadata"]["name"]]
            taken = _of_pods(pods, namespace, node, wanted, freed)
            if is_here(node):
                taken += _of_programs(pods, node, wanted, places)
            if name == SERVER and not taken:
                everywhere = False
            problems += [(name, text) for text in taken]
    for name, text in problems:
        fatal = name == SERVER and everywhere
        state = State.FAILED if fatal else State.WARNING
        yield Check(
            "ports", state, text, "stop it, or give it another port" if fatal else "ours will not start there"
        )
    if not problems:
        unseen = "" if all(map(is_here, survey.hosts)) else "; other programs show when ours start"
        yield Check("ports", State.OK, f"no pod has those that ours need{unseen}")


def is_here(node: Object) -> bool:
    """Whether this runs on the node's machine, and in its network. Containers on one machine boot with it."""
    said = ((node.get("status") or {}).get("nodeInfo") or {}).get("bootID")
    try:
        if said != _BOOT.read_text().strip():
            return False
    except OSError:
        return False
    return any(map(_is_own, addresses(node)))


def _is_own(address: str) -> bool:
    with (
        suppress(OSError),
        socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock,
    ):
        sock.bind((address, 0))
        return True
    return False


def _of_pods(
    pods: list[Object], namespace: str, node: Object, wanted: set[int], freed: set[str]
) -> list[str]:
    found = []
    for pod in pods:
        metadata = pod["metadata"]
        ended = (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}
        ports = wanted & _ports(pod)
        if metadata["namespace"] == namespace or ended or not ports:
            continue
        if any(metadata["name"].startswith(f"{name}-") for name in freed):
            continue
        owner = next(iter(metadata.get("ownerReferences") or ()), None)
        whose = f", of {owner['kind']} {owner['name']}" if owner else ""
        what = f"pod {metadata['namespace']}/{metadata['name']}{whose}"
        found.append(f"{', '.join(map(str, sorted(ports)))} on {node['metadata']['name']}: {what}")
    return found


def _places(objects: list[Object]) -> dict[int, list[str]]:
    """Return where the server listens for agents, by port: on every address, unless it is told where."""
    settings = tomllib.loads(named(objects, "ConfigMap", SERVER_CONFIG)["data"][SERVER_FILE])
    addresses = [str(each) for each in settings.get("bind-address", ["0.0.0.0"])]  # noqa: S104 - asked about
    return {settings["tunnel-port"]: addresses}


def _of_programs(
    pods: list[Object], node: Object, wanted: set[int], places: dict[int, list[str]]
) -> list[str]:
    """Of this machine, and of no pod that runs, ours of before for one."""
    found = []
    for port in sorted(wanted.difference(*(_ports(each) for each in pods if _runs(each)))):
        # The others listen on loopback, whatever else they listen on.
        owners = (find_owner(address, port) for address in places.get(port, ["127.0.0.1"]))
        if owner := next(filter(None, owners), ""):
            found.append(f"{port} on {node['metadata']['name']}: a program there, {owner}")
    return found


def _ports(pod: Object) -> set[int]:
    known = _YURT_TUNNEL if pod["metadata"]["name"].startswith("yurt-tunnel-server-") else frozenset[int]()
    return host_ports(pod["spec"]) | known


def _runs(pod: Object) -> bool:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return any("running" in (each.get("state") or {}) for each in statuses)
