"""What is said of a pod that does not do its work."""

from typing import Any

import pytest

from tunnelctl.cluster_pods import has_run, waiting_reasons


def test_why_a_pod_waits() -> None:
    pull = {"name": "c", "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}
    starting = {"name": "d", "state": {"waiting": {"reason": "PodInitializing"}}}
    unscheduled = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "no ports",
    }
    pod = {"status": {"conditions": [unscheduled], "containerStatuses": [pull, starting]}}
    assert list(waiting_reasons(pod)) == ["Unschedulable: no ports", "c: ErrImagePull: no such image"]
    assert list(waiting_reasons({})) == []


@pytest.mark.parametrize(
    ("status", "ran"),
    [
        ({}, False),
        ({"phase": "Pending"}, False),
        ({"phase": "Pending", "initContainerStatuses": [{"state": {"waiting": {}}}]}, False),
        ({"phase": "Pending", "initContainerStatuses": [{"state": {"terminated": {}}}]}, True),
        ({"phase": "Running"}, True),
        ({"containerStatuses": [{"state": {"waiting": {}}, "lastState": {"terminated": {}}}]}, True),
    ],
)
def test_whether_it_has_left_anything(status: Any, ran: bool) -> None:
    assert has_run({"status": status}) is ran
