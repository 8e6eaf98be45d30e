"""Whether pods' connections meet our rules, by what a cluster says of its CNI."""

from typing import Any

import pytest

from tunnel_server.kube.failures import ApiFailure
from tunnel_server.kube.references import ObjectReference
from tunnelctl.checks import State
from tunnelctl.cluster_callers import CILIUM, FELIX, check_pods

CAPTURED = 'caller-networks = ["10.244.0.0/16"]\n'
EBPF = {"kube-proxy-replacement": "true", "enable-bpf-masquerade": "true"}


class Objects:
    """A cluster that is asked for single objects."""

    def __init__(self, toml: str, **others: Any) -> None:
        self.toml, self.others = toml, others

    def find(self, reference: ObjectReference) -> Any:
        if reference.name == "tunnel-server-config":
            return {"data": {"server.toml": self.toml}}
        found = self.others.get({CILIUM: "cilium", FELIX: "felix"}[reference])
        if isinstance(found, Exception):
            raise found
        return found


def judged(toml: str = CAPTURED, **others: Any) -> tuple[State, str]:
    cluster: Any = Objects(toml, **others)
    check = check_pods(cluster, "edge-tunnel")
    return check.state, check.text


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"cilium": {"data": {"kube-proxy-replacement": "false"}}},
        {"cilium": {"data": {**EBPF, "enable-host-legacy-routing": "true"}}},
        {"felix": {"spec": {"bpfEnabled": False}}},
        {"felix": ApiFailure("forbidden", status=403)},
    ],
)
def test_by_netfilter(others: dict[str, Any]) -> None:
    assert judged(**others) == (State.OK, "those in 10.244.0.0/16 are captured on the server's host")


@pytest.mark.parametrize(
    ("others", "who"),
    [({"cilium": {"data": EBPF}}, "Cilium"), ({"felix": {"spec": {"bpfEnabled": True}}}, "Calico")],
)
def test_past_netfilter(others: dict[str, Any], who: str) -> None:
    state, text = judged(**others)
    assert state is State.WARNING
    assert text.startswith(who)
    assert text.endswith("past netfilter: they are not captured")


@pytest.mark.parametrize("toml", ["caller-networks = []", "", "x ="])
def test_nobody_told_the_server(toml: str) -> None:
    assert judged(toml, cilium={"data": EBPF})[0] is State.SKIPPED


def test_nobody_answers() -> None:
    with pytest.raises(ApiFailure):
        judged(cilium=ApiFailure("no answer in time"))
