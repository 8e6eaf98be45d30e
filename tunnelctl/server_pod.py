"""Asking the server of a cluster: by `tunnelctl` itself, in the server's pod, where its admin socket is.

As `kubectl exec` does: it takes the right to `create pods/exec` in our namespace, and opens nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tunnel_server.kube.execution import execute
from tunnelctl.errors import CommandError, NotReachableError, RefusedError

if TYPE_CHECKING:
    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import Object

CONTAINER = "tunnel-server"
TIMEOUT = 45.0
"""Seconds for a command there; more than it gives the server itself."""


def ask_server(cluster: Cluster, pod: Object, *words: str) -> dict[str, Any]:
    """Return the JSON that `tunnelctl WORDS --json` prints there.

    Raises ApiFailure, and CommandError with what it says on standard error.
    """
    command = ["tunnelctl", *words, "--json"]
    done = execute(cluster, pod, CONTAINER, command, timeout=TIMEOUT)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        return answer
    said = done.stderr.strip().removeprefix("tunnelctl: ") or "nothing"
    kind = {3: NotReachableError, 4: RefusedError}.get(done.code, CommandError)
    raise kind(f"{' '.join(command)} in pod {pod['metadata']['name']} ended with {done.code}: {said}")
