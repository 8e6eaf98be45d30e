"""Recognising a yurt-tunnel."""

from typing import Any

import pytest

from tunnel_server.kube.references import DEPLOYMENTS, ObjectReference
from tunnel_server.kube.resources import DAEMON_SETS
from tunnelctl.install.yurt_tunnel import STOPPED, Workload, leaves_rules


def workload(
    image: str = "openyurt/yurt-tunnel-server:v0.6.0", *, stopped: bool = False, **spec: Any
) -> Workload:
    template = {"spec": {"containers": [{"image": image}]}}
    metadata = {"annotations": {STOPPED: "{}"}} if stopped else {}
    kind = DEPLOYMENTS if spec else DAEMON_SETS
    live = {"metadata": metadata, "spec": {**spec, "template": template}}
    return Workload(ObjectReference(kind, "yurt-tunnel-server", "kube-system"), live)


@pytest.mark.parametrize(
    ("image", "leaves"),
    [
        ("x/s:v0.4.0", True),
        ("x/s:v0.4.1", False),
        ("x/s:1.2.0", False),
        ("host:5000/s", False),
        ("x/s:latest", False),
    ],
)
def test_old_versions_leave_rules(image: str, leaves: bool) -> None:
    assert leaves_rules([workload(image)]) is leaves


def test_what_runs() -> None:
    assert workload().runs
    assert not workload(stopped=True).runs
    assert workload(replicas=1).runs
    assert not workload(replicas=0).runs
