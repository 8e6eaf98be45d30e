"""Which file of the server's state is in which object of the tunnel's own namespace.

| file | object | why |
|---|---|---|
| revocations.json | ConfigMap edge-tunnel-revocations | one object that every server watches; nothing in it is secret |
| ca.crt, ca.key, ca-next.key | Secret edge-tunnel-ca | a root and its key change together, in each step of a roll too |
| server.crt, server.key | Secret edge-tunnel-server | a pair; not beside the CA, which fewer have to read |
| tokens.json | a Secret for each token, edge-tunnel-token-ID | used up by whoever updates it first, without keeping others waiting |
| nodes.json | a Secret for each node, edge-tunnel-node-NAME | ten thousand nodes are more than the 1 MiB of one object, and two that renew do not meet; no secret, but who writes it says whose an address is |
| callers.json | Secret edge-tunnel-callers | callers are few, and named by hand |
| mappings.json | none | ports are mapped in a ConfigMap of their own, see `tunnel_server.kube.port_config` |

What changes together but lies in several objects is written in the order of PARTS, because a writer may die after
any of them; docs/kubernetes/state.md says for each change what then is so, and what makes it whole.
"""  # noqa: E501 - a table

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from certs.authority import CA_CERTIFICATE, CA_KEY
from certs.callers import CALLERS_FILE
from certs.nodes import NODES_FILE
from certs.revocations import REVOCATIONS_FILE
from certs.roll import NEXT_KEY
from certs.server_state import SERVER_CERTIFICATE, SERVER_KEY
from certs.tokens import TOKENS_FILE
from tunnel_server.kube.resources import CONFIG_MAPS, SECRETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tunnel_server.kube.resources import ApiResource, Object

KIND = "edge-tunnel.io/kind"
"""The label by which objects of ours are found; its value is a part's `kind`."""
LABELS = {"app.kubernetes.io/name": "edge-tunnel", "app.kubernetes.io/managed-by": "tunnel-server"}
"""Of all that servers make at run time: by these `tunnelctl uninstall` knows what to take away."""
MAX_DATA = 1024 * 1024
"""Bytes of data that the apiserver takes in one Secret or ConfigMap (MaxSecretSize in k8s.io/api/core/v1)."""

_RECORD, _NAME = "record", "name"
_LONGEST_NAME = 253  # of an object: RFC 1123 as Kubernetes has it


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as it was read."""

    name: str
    kind: str
    version: str
    """resourceVersion."""
    data: Mapping[str, bytes] = field(repr=False)
    metadata: Object = field(repr=False)
    record: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)
    """What `data` has of an entry, if it has one; read once, since there are thousands."""

    @classmethod
    def read(cls, resource: ApiResource, item: Object) -> Stored:
        """Take what the apiserver says; raises nothing."""
        about = item.get("metadata") or {}
        about.pop("managedFields", None)
        data: dict[str, bytes] = {}
        for key, text in (item.get("data") or {}).items():
            data[key] = str(text).encode() if resource == CONFIG_MAPS else _decoded(str(text))
        kind = str((about.get("labels") or {}).get(KIND, ""))
        version = str(about.get("resourceVersion"))
        return cls(str(about.get("name")), kind, version, data, about, _record(data))


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object as it shall be; without data, it shall not be."""

    part: Part
    name: str
    data: Mapping[str, bytes] = field(repr=False)

    def body(self, stored: Stored | None) -> Object:
        """The object to create, or to put in the place of `stored`, and of no other version."""
        if stored is None:
            metadata: Object = {"name": self.name, "labels": {**LABELS, KIND: self.part.kind}}
        else:
            metadata = stored.metadata
        if self.part.resource == CONFIG_MAPS:
            data = {key: each.decode() for key, each in self.data.items()}
        else:
            data = {key: base64.b64encode(each).decode() for key, each in self.data.items()}
        return {"metadata": metadata, "data": data}


@dataclass(frozen=True, slots=True)
class Whole:
    """Files that are in one object, each under its own name."""

    resource: ApiResource
    name: str
    kind: str
    files: tuple[str, ...]

    def contents(self, objects: Iterable[Stored]) -> dict[str, bytes]:
        """The files as the objects of this part have them."""
        return {file: data for each in objects for file, data in each.data.items() if file in self.files}

    def wanted(self, now: Mapping[str, Stored], files: Mapping[str, bytes | None]) -> Iterator[Wanted]:
        """What the objects shall be so that `files` are as given, None of them gone."""
        stored = now.get(self.name)
        data: dict[str, bytes] = dict(stored.data) if stored else {}
        for file in self.files:
            if file in files:
                content = files[file]
                data.pop(file, None)
                if content is not None:
                    data[file] = content
        yield Wanted(self, self.name, data)


@dataclass(frozen=True, slots=True)
class Entries:
    """A file of JSON of which each entry has its own object."""

    resource: ApiResource
    prefix: str
    kind: str
    file: str
    member: str
    """Of the document, that holds the entries."""
    key: str
    """Of an entry, that names it; empty where the member is an object with the names as its keys."""

    @property
    def files(self) -> tuple[str, ...]:
        """The one file."""
        return (self.file,)

    @property
    def name(self) -> str:
        """As messages name all the objects."""
        return f"{self.prefix}*"

    def contents(self, objects: Iterable[Stored]) -> dict[str, bytes]:
        """The document as the objects have it; an object that somebody damaged does not count."""
        found = {name: each.record for each in objects if (name := _text(each)) and each.record}
        if not found:
            return {}
        entries = list(found.values()) if self.key else found
        return {self.file: json.dumps({"version": 1, self.member: entries}).encode()}

    def wanted(self, now: Mapping[str, Stored], files: Mapping[str, bytes | None]) -> Iterator[Wanted]:
        """What the objects shall be so that the document is as given, None for none. Raises ValueError."""
        if self.file not in files:
            return
        content = files[self.file]
        entries: Any = json.loads(content)[self.member] if content is not None else {}
        if self.key:
            entries = {entry[self.key]: entry for entry in entries}
        wanted = {self._object_name(name): (name, entry) for name, entry in entries.items()}
        for object_name, (name, entry) in wanted.items():
            if (stored := now.get(object_name)) and stored.record == entry:
                continue
            data = {_NAME: name.encode(), _RECORD: json.dumps(entry, indent=1).encode()}
            yield Wanted(self, object_name, data)
        for object_name, stored in now.items():
            if object_name not in wanted and stored.record:
                yield Wanted(self, object_name, {})

    def _object_name(self, name: str) -> str:
        if len(self.prefix) + len(name) <= _LONGEST_NAME:
            return self.prefix + name
        return self.prefix + hashlib.sha256(name.encode()).hexdigest()


Part = Whole | Entries

AUTHORITY = Whole(SECRETS, "edge-tunnel-ca", "authority", (CA_CERTIFICATE, CA_KEY, NEXT_KEY))

PARTS: tuple[Part, ...] = (
    Whole(CONFIG_MAPS, "edge-tunnel-revocations", "revocations", (REVOCATIONS_FILE,)),
    AUTHORITY,
    Whole(SECRETS, "edge-tunnel-server", "server", (SERVER_CERTIFICATE, SERVER_KEY)),
    Entries(SECRETS, "edge-tunnel-token-", "join-token", TOKENS_FILE, "tokens", "id"),
    Entries(SECRETS, "edge-tunnel-node-", "node", NODES_FILE, "nodes", ""),
    Whole(SECRETS, "edge-tunnel-callers", "callers", (CALLERS_FILE,)),
)
"""In the order in which they are written."""

_OF_FILE = {file: part for part in PARTS for file in part.files}


def part_of(file: str) -> Part | None:
    """Where a file is; None for one that is not kept in a cluster."""
    return _OF_FILE.get(file)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except binascii.Error:
        return b""  # not from an apiserver


def _text(stored: Stored) -> str:
    return stored.data.get(_NAME, b"").decode(errors="replace")


def _record(data: Mapping[str, bytes]) -> dict[str, Any] | None:
    if _RECORD not in data:
        return None
    try:
        record = json.loads(data[_RECORD])
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
