"""Agents attested by Kubernetes: from a projected ServiceAccount token to the node that its pod runs on.

The apiserver says that the token is good, for our audience, and whose it is (TokenReview). Which pod that is
stands in the token; on which node it runs, in the pod: the scheduler and the DaemonSet controller wrote that,
and a kubelet can neither change it nor have a token for a pod of another node (NodeRestriction).
"""

from __future__ import annotations

import base64
import json
import logging
from datetime import datetime
from typing import TYPE_CHECKING

import trio

from certs.identity import check_node_name
from tunnel_daemon.failure_log import FailureLog
from tunnel_server.attestor import AttestationRefusedError, AttestationUnavailableError, Attested
from tunnel_server.kube.failures import ApiFailure
from tunnel_server.kube.resources import DAEMON_SETS, PODS, TOKEN_REVIEWS, NamespacedName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import ApiResource, Object
    from tunnel_server.kube.settings import KubernetesSettings

log = logging.getLogger(__name__)

MAX_TOKEN = 16 * 1024
"""Characters; a projected token has some 1,200."""
_CLAIM = "authentication.kubernetes.io/"
_LANES, _WAITING = 3, 256
"""Agents asked about at once, and waiting for their turn."""
_PATIENCE = 12.0
"""Seconds for one agent, over all requests: less than an agent waits for its answer."""
_SHOWN = 300
"""Characters of the apiserver's own words that are repeated."""


class PodAttestor:
    """Vouches for the pods of the agents' DaemonSet."""

    def __init__(self, cluster: Cluster, settings: KubernetesSettings) -> None:
        self._cluster = cluster
        self._audience = settings.audience
        self._daemon_set = NamespacedName(settings.namespace, settings.agent_daemon_set)
        self._username = f"system:serviceaccount:{settings.namespace}:{settings.agent_service_account}"
        # Threads of their own: what strangers send must not use up those of the watches.
        self._lane = trio.CapacityLimiter(_LANES)
        self._suspects = trio.CapacityLimiter(1)
        self._failures = FailureLog(log)

    async def attest(self, token: str, *, suspect: bool = False) -> Attested:
        """See `Attestor`."""
        check_form(token, self._username, self._audience)
        lane = self._suspects if suspect else self._lane
        if lane.statistics().tasks_waiting >= _WAITING:
            raise AttestationUnavailableError("too many agents wait for the apiserver: ask again later")
        with trio.move_on_after(_PATIENCE):
            try:
                attested = await trio.to_thread.run_sync(
                    self._attest, token, abandon_on_cancel=True, limiter=lane
                )
            except AttestationRefusedError:
                self._failures.over()
                raise
            except ApiFailure as failure:
                self._failures.failed("apiserver", f"agents cannot be attested: {failure}")
                text = "the tunnel server cannot ask its apiserver, see its log; ask again later"
                raise AttestationUnavailableError(text) from None
            self._failures.over()
            return attested
        self._failures.failed("silence", f"agents cannot be attested: no answer within {_PATIENCE:g} s")
        raise AttestationUnavailableError("the tunnel server's apiserver does not answer: ask again later")

    def _attest(self, token: str) -> Attested:
        spec = {"token": token, "audiences": [self._audience]}
        review = self._cluster.create(TOKEN_REVIEWS, {"spec": spec})
        claims = check_review(review, self._username, self._audience)
        name, namespace = claims["pod-name"], self._daemon_set.namespace
        pod = self._get_or_refuse(
            PODS, name, code="pod-gone", text=f"pod {namespace}/{name}, which the token is of, is gone"
        )
        text = f"there is no DaemonSet {self._daemon_set}, whose pods agents are"
        owner = self._get_or_refuse(DAEMON_SETS, self._daemon_set.name, code="no-daemon-set", text=text)
        node = check_pod(pod, claims, owner)
        return Attested(node, f"pod {namespace}/{name}, {claims['pod-uid']}", _created(pod))

    def _get_or_refuse(self, resource: ApiResource, name: str, *, code: str, text: str) -> Object:
        try:
            return self._cluster.get(resource, name, self._daemon_set.namespace)
        except ApiFailure as failure:
            if failure.reason == "NotFound":
                raise AttestationRefusedError(code, text) from None
            raise


def check_form(token: str, username: str, audience: str) -> None:
    """Refuse what cannot be a token of the agents', before the apiserver has any work with it.

    Nothing is believed of what it says here: that is for the apiserver. Raises AttestationRefusedError.
    """
    try:
        if len(token) > MAX_TOKEN:
            raise ValueError
        _header, payload, _signature = token.split(".")
        padding = "=" * (-len(payload) % 4)
        claims = json.loads(base64.b64decode(payload + padding, altchars=b"-_", validate=True))
        subject, audiences = claims.get("sub"), claims.get("aud")
        listed = [audiences] if isinstance(audiences, str) else list(audiences or ())
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise AttestationRefusedError("malformed", "what was sent is no ServiceAccount token") from None
    if subject != username:
        raise _other_account(subject, username)
    if audience not in listed:
        raise _wrong_audience(listed, audience)


def check_review(review: Object, username: str, audience: str) -> Mapping[str, str]:
    """Return what the token says, the apiserver vouching: `pod-name`, `pod-uid`, perhaps `node-name`.

    Raises AttestationRefusedError.
    """
    status = review.get("status") or {}
    if status.get("authenticated") is not True:
        said = _printable(status.get("error") or "it is not authenticated")
        code = "token-expired" if "expired" in said else "token-refused"
        raise AttestationRefusedError(code, f"the apiserver does not accept the token: {said}")
    audiences = list(status.get("audiences") or ())
    if audience not in audiences:
        # One that knows nothing of audiences names none, and would accept a token made for anybody.
        raise _wrong_audience(audiences, audience)
    user = status.get("user") or {}
    if user.get("username") != username:
        raise _other_account(user.get("username"), username)
    claims = {
        key.removeprefix(_CLAIM): str(values[0])
        for key, values in (user.get("extra") or {}).items()
        if key.startswith(_CLAIM) and isinstance(values, list) and len(values) == 1
    }
    if not claims.get("pod-name") or not claims.get("pod-uid"):
        text = "the token is bound to no pod: it must come from a projected volume of the agent's pod"
        raise AttestationRefusedError("no-pod", text)
    return claims


def check_pod(pod: Object, claims: Mapping[str, str], daemon_set: Object) -> str:
    """Return the node that the agent's pod runs on; raises AttestationRefusedError if it is no such pod."""
    about = pod.get("metadata") or {}
    owner = daemon_set.get("metadata") or {}
    name = f"pod {about.get('namespace')}/{about.get('name')}"
    if not about.get("uid") or about.get("uid") != claims["pod-uid"]:
        text = f"{name} was made anew, and the token is of the one before"
        raise AttestationRefusedError("pod-replaced", text)
    if not any(_is_controller(each, owner) for each in about.get("ownerReferences") or ()):
        text = f"{name} is none of DaemonSet {owner.get('namespace')}/{owner.get('name')}"
        raise AttestationRefusedError("pod-not-ours", text)
    phase = (pod.get("status") or {}).get("phase")
    if about.get("deletionTimestamp") or phase in {"Succeeded", "Failed"}:
        raise AttestationRefusedError("pod-ending", f"{name} is being deleted, or has ended")
    node = (pod.get("spec") or {}).get("nodeName")
    if not isinstance(node, str) or not node:
        raise AttestationRefusedError("pod-not-scheduled", f"{name} has no node yet")
    if claims.get("node-name", node) != node:
        text = f"{name} runs on {node}, and its token names {_printable(claims['node-name'])}"
        raise AttestationRefusedError("other-node", text)
    try:
        check_node_name(node)
    except ValueError as error:
        text = f"{error}; docs/kubernetes.md says how a Node with such a name gets an agent"
        raise AttestationRefusedError("bad-node-name", text) from None
    return node


def _created(pod: Object) -> datetime | None:
    """When the pod was made: later than its Node, and by the apiserver's clock too."""
    try:
        return datetime.fromisoformat(str((pod.get("metadata") or {}).get("creationTimestamp")))
    except ValueError:
        return None


def _is_controller(reference: Object, daemon_set: Object) -> bool:
    return (
        reference.get("controller") is True
        and str(reference.get("apiVersion")).partition("/")[0] == DAEMON_SETS.group
        and reference.get("kind") == DAEMON_SETS.kind
        and reference.get("name") == daemon_set.get("name")
        and bool(reference.get("uid"))
        and reference.get("uid") == daemon_set.get("uid")
    )


def _other_account(subject: object, username: str) -> AttestationRefusedError:
    text = f"the token is of {_printable(subject)}, and agents are {username}"
    return AttestationRefusedError("other-service-account", text)


def _wrong_audience(audiences: list[object], audience: str) -> AttestationRefusedError:
    shown = _printable(", ".join(map(str, audiences[:4])) or "no audience that the apiserver confirms")
    text = f"the token is for {shown}, not for {audience}: the agent's volume must say `audience: {audience}`"
    return AttestationRefusedError("wrong-audience", text)


def _printable(said: object) -> str:
    text = " ".join(str(said).split())[:_SHOWN]
    return "".join(character if character.isprintable() else "?" for character in text)
