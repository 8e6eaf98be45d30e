"""What a cluster knows of an edge, judged."""

from ipaddress import ip_address
from typing import Any

import pytest

from tunnelctl.checks import Check, State
from tunnelctl.cluster_doctor import (
    check_node,
    check_servers_pod,
    in_cluster,
    judge_agent,
    kubelet_port,
    where_captured,
)

READY = {"conditions": [{"type": "Ready", "status": "True"}]}
SILENT = {
    "type": "Ready",
    "status": "Unknown",
    "reason": "NodeStatusUnknown",
    "lastTransitionTime": "2026-11-21T09:00:00Z",
}


class Silence:
    """A cluster of which nothing is known but one Event."""

    def all_of(self, *_: Any, **__: Any) -> list[Any]:
        return [{"metadata": {}, "reason": "FailedMount", "message": "no CA"}]


SILENCE: Any = Silence()


def pod(name: str = "tunnel-server-1", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "edge-tunnel", "uid": "1"},
        "spec": {"nodeName": "cp-1"},
        "status": status,
    }


def running(**status: Any) -> dict[str, Any]:
    return pod(phase="Running", containerStatuses=[{"name": "c", "state": {"running": {}}}], **status)


def test_a_node() -> None:
    node = {"metadata": {"name": "edge-1"}, "status": READY}
    assert check_node(node) == Check("node", State.OK, "edge-1 is ready")
    silent = check_node({**node, "status": {"conditions": [SILENT]}})
    assert silent.state is State.WARNING
    assert silent.text == "not ready since 2026-11-21T09:00:00Z: NodeStatusUnknown"
    assert check_node({**node, "status": {}}).text == "not ready: it never reported"


def test_the_kubelets_port_is_its_own_word() -> None:
    assert kubelet_port(None) == kubelet_port({"status": {}}) == 10250
    assert kubelet_port({"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 10999}}}}) == 10999


@pytest.mark.parametrize(
    ("there", "text", "remedy"),
    [
        (None, "it has no pod there", "kubectl -n edge-tunnel describe daemonset tunnel-agent"),
        (pod(phase="Running"), "it runs, and is not linked", "on edge-1: curl http://127.0.0.1:10266/status"),
        (
            pod(phase="Pending"),
            "Pending; FailedMount: no CA",
            "kubectl -n edge-tunnel describe pod tunnel-server-1",
        ),
        (
            pod(
                containerStatuses=[
                    {"name": "c", "state": {"waiting": {"reason": "ErrImagePull", "message": "no"}}}
                ]
            ),
            "c: ErrImagePull: no",
            "describe pod",
        ),
    ],
)
def test_an_agents_pod_that_does_not_work(there: Any, text: str, remedy: str) -> None:
    check = judge_agent(SILENCE, "edge-tunnel", there, "edge-1")
    assert check.state is State.FAILED
    assert check.text.endswith(text)
    assert remedy in check.remedy


def test_an_agents_pod_that_works() -> None:
    assert judge_agent(SILENCE, "edge-tunnel", running(**READY), "edge-1").state is State.OK


def test_the_servers_pod() -> None:
    assert check_servers_pod(SILENCE, "edge-tunnel", None).text == "the server has no pod"
    unscheduled = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "no ports",
    }
    check = check_servers_pod(SILENCE, "edge-tunnel", pod(conditions=[unscheduled]))
    assert "does not run: Unschedulable: no ports" in check.text
    assert check_servers_pod(SILENCE, "edge-tunnel", running()).state is State.WARNING
    assert check_servers_pod(SILENCE, "edge-tunnel", running(**READY)) == Check(
        "server's pod", State.OK, "tunnel-server-1 on cp-1"
    )


ENDED = {"terminated": {"exitCode": 1, "reason": "Error", "message": "the port is taken\n"}}
BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff"}}


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (
            {"state": BACK_OFF, "lastState": ENDED},
            "pod tunnel-server-1 on cp-1 does not run: c: CrashLoopBackOff",
        ),
        ({"state": ENDED}, "pod tunnel-server-1 on cp-1 does not run: Running"),
        ({"state": {"running": {}}, "lastState": ENDED}, "tunnel-server-1 on cp-1 is not ready"),
    ],
)
def test_the_last_words_of_a_server_that_ended(states: dict[str, Any], said: str) -> None:
    """Of one that is started again and again, at whatever moment it is asked."""
    there = pod(phase="Running", containerStatuses=[{"name": "c", "ready": False, **states}])
    check = check_servers_pod(SILENCE, "edge-tunnel", there)
    assert check.text == f"{said}; it ended with 1 (Error): the port is taken"
    assert check.state is not State.OK


def test_remedies_are_those_of_a_cluster() -> None:
    check = in_cluster(
        Check("link", State.FAILED, "gone", "on the edge: systemctl status tunnel-agent, now"), pod()
    )
    assert check.remedy == "on the edge: crictl ps -a --name tunnel-agent, now"
    check = in_cluster(Check("address", State.FAILED, "x", "its log: journalctl -u tunnel-server"), pod())
    assert check.remedy == "its log: kubectl -n edge-tunnel logs tunnel-server-1"


def test_where_addresses_are_captured() -> None:
    there = running(hostIP="192.168.1.1", hostIPs=[{"ip": "192.168.1.1"}, {"ip": "fd00::1"}])
    for apiservers in ((), ("192.168.1.1", "fd00::1")):
        check = where_captured(there, [*map(ip_address, apiservers)])
        assert check.state is State.OK
        assert check.text.startswith("captured on cp-1, where the server runs; elsewhere: by name")
    check = where_captured(there, [*map(ip_address, ("192.168.1.1", "192.168.1.2", "192.168.1.3"))])
    assert check.state is State.WARNING
    assert check.text.endswith("and kube-apiserver is elsewhere too: 192.168.1.2, 192.168.1.3")
    assert "by EgressSelector or by name" in check.remedy
