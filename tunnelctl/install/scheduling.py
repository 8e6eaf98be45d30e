"""On which nodes a pod may run, by its nodeSelector and required node affinity; and what it takes there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunnel_server.kube.resources import Object


def selects(spec: dict[str, Any], node: Object) -> bool:
    """Whether a pod of this spec is meant for the node. Taints and room are not looked at."""
    labels = node["metadata"].get("labels") or {}
    wanted = spec.get("nodeSelector") or {}
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    # Any of the terms, each of whose expressions has to hold.
    return any(
        all(_holds(each, labels) for each in term.get("matchExpressions", ()))
        for term in required["nodeSelectorTerms"]
        if term.get("matchExpressions")
    )


def selection(spec: dict[str, Any]) -> list[str]:
    """Return what `selects` goes by, in words: one entry for each alternative."""
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    always = [f"{key}={value}" for key, value in (spec.get("nodeSelector") or {}).items()]
    terms = [
        " and ".join(always + [_words(each) for each in term.get("matchExpressions", ())])
        for term in required.get("nodeSelectorTerms", ())
    ]
    return terms or [" and ".join(always) or "any node"]


def host_ports(spec: dict[str, Any]) -> set[int]:
    """Return the ports of its host that a pod says it takes."""
    on_host = bool(spec.get("hostNetwork"))
    ports = set()
    for container in spec.get("containers", ()):
        for each in container.get("ports") or ():
            port = each.get("hostPort") or (each["containerPort"] if on_host else None)
            if port and each.get("protocol", "TCP") == "TCP":
                ports.add(port)
    return ports


def addresses(node: Object, kind: str = "InternalIP") -> list[str]:
    """Return a node's addresses of one kind."""
    listed = (node.get("status") or {}).get("addresses") or ()
    return [each["address"] for each in listed if each["type"] == kind]


def is_ready(thing: Object) -> bool:
    """Whether a node or a pod says that it is ready, or its controller says so of it."""
    conditions = (thing.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _holds(expression: dict[str, Any], labels: dict[str, str]) -> bool:
    key, values = expression["key"], expression.get("values", [])
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case "Gt" | "Lt" as operator:
            try:
                have, limit = int(labels[key]), int(values[0])
            except (KeyError, ValueError):
                return False
            return have > limit if operator == "Gt" else have < limit
    return False


def _words(expression: dict[str, Any]) -> str:
    key, values = expression["key"], expression.get("values", [])
    match expression["operator"]:
        case "In" if len(values) == 1:
            return f"{key}={values[0]}"
        case "Exists":
            return str(key)
        case "DoesNotExist":
            return f"no {key}"
        case operator:
            return f"{key} {operator} {', '.join(values)}"
