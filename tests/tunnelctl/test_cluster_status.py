"""Every edge of a cluster in a line, and what fails on it."""

from typing import Any

from tunnelctl.checks import Check, State
from tunnelctl.cluster_status import ClusterStatus, edge, edge_lines, to_json

READY = {"conditions": [{"type": "Ready", "status": "True"}]}
KNOWN = {
    "name": "edge-1",
    "connected": True,
    "addresses": ["192.168.1.7"],
    "captured": ["192.168.1.7"],
    "problem": None,
}
ANSWERS = Check("kubelet", State.OK, "kube-apiserver gets through to it")


def node(name: str = "edge-1", status: Any = READY) -> dict[str, Any]:
    addresses = [{"type": "InternalIP", "address": "192.168.1.7"}]
    return {"metadata": {"name": name}, "status": {**status, "addresses": addresses}}


AGENT = Check("agent", State.OK, "pod tunnel-agent-x is linked")
UNLINKED = Check("agent", State.FAILED, "it runs, and is not linked", "on edge-1: curl")


def shown(*edges: Any, pod: State = State.OK) -> ClusterStatus:
    return ClusterStatus(Check("server's pod", pod, "x"), None, list(edges))


def test_all_is_well() -> None:
    status = shown(edge(node(), AGENT, KNOWN, ANSWERS, []))
    assert status.well
    header, row = edge_lines(status)
    assert header.split() == ["EDGE", "NODE", "AGENT", "CERTIFICATE", "LINK", "ADDRESSES", "KUBELET"]
    assert row.split() == ["edge-1", "ready", "ready", "valid", "connected", "192.168.1.7", "answers"]


def test_an_edge_that_is_linked_without_a_pod_is_well() -> None:
    assert edge(node(), UNLINKED, KNOWN, ANSWERS, []).failing is None


def test_the_first_step_that_fails_and_its_remedy() -> None:
    revoked = Check("certificate", State.FAILED, "revoked", "tunnelctl revoke --undo edge-1")
    away = {**KNOWN, "connected": False, "captured": []}
    status = shown(edge(node(), UNLINKED, away, None, [revoked]))
    assert not status.well
    lines = edge_lines(status)
    assert lines[1].split()[:6] == ["edge-1", "ready", "not", "ready", "refused", "away"]
    assert "[192.168.1.7]" in lines[1]
    assert lines[2].startswith("edge-1: agent: ")
    assert lines[3].startswith("  -> on edge-1: curl")
    ready = edge(node(), AGENT, away, None, [revoked])
    assert ready.failing == revoked


def test_a_kubelet_that_does_not_answer_fails() -> None:
    silent = Check("kubelet", State.FAILED, "no answer in time", "remedy")
    broken = edge(node(), AGENT, KNOWN, silent, [])
    assert (broken.kubelet, broken.failing) == ("no answer", silent)


def test_an_edge_whose_machine_is_away_does_not_fail_the_whole() -> None:
    away = edge(node(status={}), UNLINKED, {**KNOWN, "connected": False}, None, [])
    assert away.failing is not None
    assert shown(away).well
    assert not shown(away, pod=State.FAILED).well


def test_without_edges_and_as_json() -> None:
    assert edge_lines(shown()) == ["no node counts as an edge: see `tunnelctl doctor NODE`"]
    report = to_json(shown(edge(node(), AGENT, None, None, [])))
    assert report["ok"] is False
    assert report["edges"][0]["failing"] is None or report["edges"][0]["failing"]["remedy"]
