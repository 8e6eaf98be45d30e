"""`tunnelctl status` against the real admin API."""

import datetime
import json

from tunnel_server.admin.views import FailureView, InterceptionView, PredecessorView


async def test_status_at_a_glance(tunnelctl) -> None:
    code, out, err = await tunnelctl("status")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "tunnel-server 1.2.3, up 2h 5m",
        "nodes         1 of 2 connected",
        "calls         4 open",
        "memory        1.5 KiB of 1.0 GiB",
        "interception  active, 3 addresses",
        "",
        "LISTENER  ADDRESS        GOES TO",
        "tunnel    0.0.0.0:10262  -",
        "",
        " PORT  LISTENER  SOURCE",
        " 9443     10263  configured",
        "10250     10263  built-in",
        "10255     10264  built-in",
    ]


async def test_problems_and_failures_are_shown(tunnelctl, core) -> None:
    failure = FailureView(
        time=datetime.datetime(2026, 11, 21, 9, tzinfo=datetime.UTC), frontend="transparent",
        caller="10.0.0.9:5", node="edge-1", target="192.168.2.143:9081", cause="refused",
        detail="connection refused",
    )  # fmt: skip
    core.differently = {
        "interception": InterceptionView(state="failed", restored=2, problems=("no nftables",)),
        "mapping_problems": ('"x=y" is no mapping',),
        "recent_failures": (failure,),
    }
    lines = (await tunnelctl("status"))[1].splitlines()
    assert "interception  failed, 0 addresses, put back 2 times" in lines
    assert "problem: no nftables" in lines
    assert 'problem: "x=y" is no mapping' in lines
    assert lines[-1].split("  ") == [
        "2026-11-21T09:00:00Z", "transparent", "10.0.0.9:5", "edge-1", "192.168.2.143:9081", "refused",
        "connection refused",
    ]  # fmt: skip


async def test_json_is_the_servers_answer(tunnelctl) -> None:
    answer = json.loads((await tunnelctl("status", "--json"))[1])
    assert (answer["version"], answer["build"]) == ("1.2.3", "interpreted")
    assert answer["memory_budget_bytes"] == 2**30


async def test_servers_that_were_replaced_and_have_calls_are_shown(tunnelctl, core) -> None:
    core.differently = {"predecessors": (PredecessorView(pid=1234, version="1.2.2", calls_open=1),)}
    lines = (await tunnelctl("status"))[1].splitlines()
    assert lines[3] == "replaced      process 1234, 1.2.2: 1 calls open still"
    assert json.loads((await tunnelctl("status", "--json"))[1])["predecessors"] == [
        {"pid": 1234, "version": "1.2.2", "calls_open": 1}
    ]
