"""The kinds of objects that the tunnel reads or writes, as the API's paths name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias
from urllib.parse import quote

Object: TypeAlias = dict[str, Any]
"""An object of the API as JSON has it. What a later release adds or leaves out breaks nothing."""


@dataclass(frozen=True, slots=True)
class ApiResource:
    """One kind, in the version that is asked for."""

    plural: str
    kind: str
    group: str = ""
    version: str = "v1"

    @property
    def api_version(self) -> str:
        """As objects have it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "") -> str:
        """The path of a collection, or of an object."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        within = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
        return f"{root}{within}/{self.plural}" + (f"/{quote(name, safe='')}" if name else "")

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


CONFIG_MAPS = ApiResource("configmaps", "ConfigMap")
DAEMON_SETS = ApiResource("daemonsets", "DaemonSet", "apps")
ENDPOINT_SLICES = ApiResource("endpointslices", "EndpointSlice", "discovery.k8s.io")
EVENTS = ApiResource("events", "Event")
NODES = ApiResource("nodes", "Node")
PODS = ApiResource("pods", "Pod")
SECRETS = ApiResource("secrets", "Secret")
SERVICES = ApiResource("services", "Service")
SERVICE_CIDRS = ApiResource("servicecidrs", "ServiceCIDR", "networking.k8s.io")
TOKEN_REVIEWS = ApiResource("tokenreviews", "TokenReview", "authentication.k8s.io")


@dataclass(frozen=True, slots=True)
class NamespacedName:
    """One object, by name; also how a setting names one: `NAMESPACE/NAME`."""

    FORM: ClassVar[str] = '"NAMESPACE/NAME"'

    namespace: str
    name: str

    @classmethod
    def parse(cls, text: str) -> NamespacedName:
        """Read `NAMESPACE/NAME`; raises ValueError."""
        namespace, slash, name = text.partition("/")
        if not (slash and namespace and name) or "/" in name or not text.isprintable() or " " in text:
            raise ValueError(f'expected {cls.FORM}, not "{text[:60]}"')
        return cls(namespace, name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
