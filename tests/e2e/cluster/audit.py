"""What somebody asked a kube-apiserver, by its own audit log, held against the rules of RBAC."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
"""


@dataclass(frozen=True, slots=True, order=True)
class Request:
    """One, as authorisation sees it."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    code: int

    def __str__(self) -> str:
        where = f"{self.namespace}/{self.name}".strip("/")
        return f"{self.verb} {self.resource}.{self.group} {where}: {self.code}"


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """One verb of one rule, on one of its resources."""

    verb: str
    group: str
    resource: str
    namespace: str
    """Empty: everywhere."""
    names: tuple[str, ...]
    """Empty: whatever the name."""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}.{self.group} in {self.namespace or '*'} {' '.join(self.names)}"

    def covers(self, request: Request) -> bool:
        verbs = {request.verb}
        if request.verb == "patch" and request.code == 201:
            verbs.add(
                "create"
            )  # server-side apply of what was not there: asked for by name, beside the patch
        return (
            self.verb in verbs
            and (self.group, self.resource) == (request.group, request.resource)
            and self.namespace in {"", request.namespace}
            and (not self.names or request.name in self.names)
        )


def requests(log: Path, user: str) -> set[Request]:
    """Return what `user` asked of resources, so far."""
    found = set()
    for line in log.read_text().splitlines():
        event = json.loads(line)
        if event["user"]["username"] == user and (about := event.get("objectRef")):
            resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
            found.add(
                Request(
                    event["verb"],
                    about.get("apiGroup", ""),
                    resource,
                    about.get("namespace", ""),
                    about.get("name", ""),
                    event.get("responseStatus", {}).get("code", 0),
                )
            )
    return found


def rights(objects: Iterable[Mapping[str, Any]]) -> Iterator[Right]:
    """Return what the Roles and ClusterRoles among `objects` give."""
    for role in objects:
        if role["kind"] in {"Role", "ClusterRole"}:
            for rule in role["rules"]:
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        for verb in rule["verbs"]:
                            yield Right(
                                verb,
                                group,
                                resource,
                                role["metadata"].get("namespace", ""),
                                tuple(rule.get("resourceNames", ())),
                            )
