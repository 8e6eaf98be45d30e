"""Whose an object is: made by the tunnel, or there before it. `app.kubernetes.io/managed-by` says it.

`tunnelctl` is on what an install made, `tunnel-server` on what servers, or commands for them, made at run
time. What was there before an install has neither, whatever fields of it the install wrote.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from tunnel_server.kube.state_layout import LABELS

if TYPE_CHECKING:
    from tunnel_server.kube.resources import Object

NAME, TUNNEL = "app.kubernetes.io/name", "edge-tunnel"
MADE_BY = "app.kubernetes.io/managed-by"
INSTALL = "tunnelctl"
AT_RUN_TIME = LABELS[MADE_BY]

OURS = f"{NAME}={TUNNEL},{MADE_BY} in ({INSTALL},{AT_RUN_TIME})"
"""What `is_ours`, as a selector."""


def maker(live: Object) -> str:
    """Return `INSTALL`, `AT_RUN_TIME`, or "" for what the tunnel did not make."""
    labels = live["metadata"].get("labels") or {}
    made_by = str(labels.get(MADE_BY, ""))
    return made_by if labels.get(NAME) == TUNNEL and made_by in {INSTALL, AT_RUN_TIME} else ""


def is_ours(live: Object) -> bool:
    """Whether the tunnel made the object, and so takes it away again."""
    return bool(maker(live))


def marked(wanted: Object, before: Object | None) -> Object:
    """Return `wanted` with the label, unless the object was there without us."""
    if before is not None and not is_ours(before):
        return wanted
    manifest = copy.deepcopy(wanted)
    manifest["metadata"].setdefault("labels", {}).update({NAME: TUNNEL, MADE_BY: INSTALL})
    return manifest
