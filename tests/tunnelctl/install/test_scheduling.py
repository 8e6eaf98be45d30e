"""Which nodes a pod is for, what it takes there, and why it waits."""

from typing import Any

import pytest

from tunnelctl.install.scheduling import host_ports, selection, selects


def affinity(*terms: list[dict[str, Any]]) -> dict[str, Any]:
    required = {"nodeSelectorTerms": [{"matchExpressions": each} for each in terms]}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, "values": list(values)}


@pytest.mark.parametrize(
    ("spec", "labels", "selected"),
    [
        ({}, {}, True),
        ({"nodeSelector": {"a": "1"}}, {"a": "1"}, True),
        ({"nodeSelector": {"a": "1"}}, {"a": "2"}, False),
        (affinity([expression("a", "Exists")]), {"a": ""}, True),
        (affinity([expression("a", "Exists")]), {}, False),
        (affinity([expression("a", "In", "1", "2")]), {"a": "2"}, True),
        (affinity([expression("a", "NotIn", "1")]), {}, True),
        (affinity([expression("a", "Gt", "3")]), {"a": "4"}, True),
        (affinity([expression("a", "Lt", "3")]), {"a": "x"}, False),
        (affinity([expression("a", "Exists"), expression("b", "DoesNotExist")]), {"a": "", "b": ""}, False),
        (affinity([expression("a", "Exists")], [expression("b", "Exists")]), {"b": ""}, True),
        (affinity([]), {}, False),
    ],
)
def test_as_the_scheduler_has_it(spec: dict[str, Any], labels: dict[str, str], selected: bool) -> None:
    assert selects(spec, {"metadata": {"name": "n", "labels": labels}}) is selected


def test_a_selection_in_words() -> None:
    terms = affinity(
        [expression("a", "In", "1"), expression("x", "DoesNotExist")], [expression("b", "Exists")]
    )
    assert selection({"nodeSelector": {"os": "linux"}} | terms) == [
        "os=linux and a=1 and no x",
        "os=linux and b",
    ]
    assert selection({}) == ["any node"]


def test_ports_of_the_host() -> None:
    ports = [
        {"containerPort": 80},
        {"containerPort": 81, "hostPort": 8081},
        {"containerPort": 82, "protocol": "UDP"},
    ]
    containers = [{"ports": ports}, {}]
    assert host_ports({"containers": containers}) == {8081}
    assert host_ports({"containers": containers, "hostNetwork": True}) == {80, 8081}
