"""What of an object one field manager applied, read from its `metadata.managedFields`.

Applying exactly that again undoes a later apply of the same manager: fields it added then go, fields it
changed are as before, and nobody else's are touched. (Kubernetes: Server-Side Apply; the form of
`fieldsV1` is that of structured-merge-diff v4.)
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunnel_server.kube.resources import Object


def owned_fields(live: Object, manager: str) -> Object | None:
    """Return `live` with those fields only that `manager` applied; None if it applied none."""
    entry = next(
        (
            each
            for each in live["metadata"].get("managedFields", ())
            if each.get("manager") == manager and each.get("operation") == "Apply"
        ),
        None,
    )
    if entry is None:
        return None
    extracted = _extract(live, entry.get("fieldsV1") or {})
    return bare(live) if not isinstance(extracted, dict) else _with_identity(extracted, live)


def bare(live: Object) -> Object:
    """Return an object that says nothing: to apply it gives up all that its manager applied before."""
    return _with_identity({}, live)


def managers(live: Object) -> set[str]:
    """Return who wrote any field but those of status."""
    return {
        each.get("manager", "")
        for each in live["metadata"].get("managedFields", ())
        if each.get("subresource", "") != "status"
    }


def _with_identity(fields: Object, live: Object) -> Object:
    metadata = dict(fields.get("metadata", {}))
    metadata["name"] = live["metadata"]["name"]
    if "namespace" in live["metadata"]:
        metadata["namespace"] = live["metadata"]["namespace"]
    return {**fields, "apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": metadata}


def _extract(value: object, fields: dict[str, Any]) -> object:
    """Take of `value` what `fields` names; a leaf is taken whole."""
    if not any(key != "." for key in fields):
        # A leaf; or, with ".", a map or item that is owned without any of what is in it.
        return value if "." not in fields else type(value)()
    if isinstance(value, dict):
        taken = {}
        for key, below in fields.items():
            name = key.removeprefix("f:")
            if key.startswith("f:") and name in value:
                taken[name] = _extract(value[name], below)
        return taken
    if isinstance(value, list):
        return [_extract_item(item, below) for item, below in _items(value, fields)]
    return value


def _items(values: list[Any], fields: dict[str, Any]) -> list[tuple[Any, tuple[str, dict[str, Any]]]]:
    """Pair each item with the key that names it, in the order of the list."""
    found = []
    for index, item in enumerate(values):
        for key, below in fields.items():
            if _names(key, item, index):
                found.append((item, (key, below)))
                break
    return found


def _names(key: str, item: object, index: int) -> bool:
    form, _, text = key.partition(":")
    if form == "k":  # the item of a list of maps with these keys
        wanted = json.loads(text)
        return isinstance(item, dict) and all(item.get(name) == value for name, value in wanted.items())
    if form == "v":  # the item of a set
        return bool(item == json.loads(text))
    return form == "i" and int(text) == index


def _extract_item(item: object, named: tuple[str, dict[str, Any]]) -> object:
    key, below = named
    taken = _extract(item, below)
    if key.startswith("k:") and isinstance(taken, dict):
        # The keys say which item is meant: applied without them, it would be another.
        return {**json.loads(key[2:]), **taken}
    return taken
