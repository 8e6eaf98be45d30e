"""Views as JSON."""

import datetime
import json

from tunnel_server.admin.views import (
    FailureView,
    InterceptionView,
    ListenerView,
    NodeView,
    StatusView,
    to_json,
)

AT = datetime.datetime(2026, 11, 21, 9, 0, 0, 999, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))


def test_a_node_is_its_fields() -> None:
    view = NodeView(name="edge-1", addresses=("192.168.2.143",), connected=True, since=AT, rtt_ms=1.5)
    assert to_json(view) == {
        "name": "edge-1", "addresses": ["192.168.2.143"], "captured": [], "connected": True,
        "since": "2026-11-21T08:00:00Z", "agent_version": "", "remote_address": "", "rtt_ms": 1.5,
        "links": [],
        "open_calls": 0, "suspended_calls": 0, "bytes_up": 0, "bytes_down": 0, "problem": None,
    }  # fmt: skip


def test_nested_views_are_plain_json() -> None:
    status = StatusView(
        version="1", build="compiled", instance="i", started=AT, uptime_seconds=1.5,
        listeners=(ListenerView(name="tunnel", address="0.0.0.0:10262"),),
        interception=InterceptionView(state="failed", problems=("no nftables",)),
        nodes_known=1, nodes_connected=0, calls_open=0, memory_used_bytes=1, memory_budget_bytes=2,
        recent_failures=(
            FailureView(time=AT, frontend="fixed", caller="c", node="n", target="t", cause="refused"),
        ),
    )  # fmt: skip
    plain = json.loads(json.dumps(to_json(status)))
    assert plain["build"] == "compiled"
    assert plain["listeners"] == [{"name": "tunnel", "address": "0.0.0.0:10262", "target": None}]
    assert plain["interception"]["problems"] == ["no nftables"]
    assert plain["recent_failures"][0]["time"] == "2026-11-21T08:00:00Z"
