"""`tunnelctl nodes` against the real admin API."""

import datetime
import json

from tunnel_server.admin.views import NodeView


async def test_nodes_are_a_table_and_problems_stand_below(tunnelctl, core) -> None:
    now = datetime.datetime.now(datetime.UTC)
    core.nodes = [
        NodeView(
            name="edge-1", addresses=("192.168.2.143",), captured=("192.168.2.143",), connected=True,
            since=now - datetime.timedelta(hours=2, seconds=30), agent_version="0.1.0",
            remote_address="10.1.1.9", rtt_ms=12.34, open_calls=3, bytes_up=2048, bytes_down=5 * 2**20,
        ),
        NodeView(
            name="edge-22", addresses=("10.0.0.1", "10.0.0.2"), captured=("10.0.0.2",), problem="a\x1b[31m\nb"
        ),
    ]  # fmt: skip
    code, out, err = await tunnelctl("nodes")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "NAME     STATE      FOR    ADDRESSES            FROM          RTT  CALLS     SENT  RECEIVED  AGENT",
        "edge-1   connected  2h 0m  192.168.2.143        10.1.1.9  12.3 ms      3  2.0 KiB   5.0 MiB  0.1.0",
        "edge-22  away       -      [10.0.0.1],10.0.0.2  -               -      0      0 B       0 B  -",
        "edge-22: a?[31m?b",
    ]


async def test_no_nodes_says_what_to_do(tunnelctl) -> None:
    assert (await tunnelctl("nodes"))[1] == "no node has joined yet: see `tunnelctl token create --help`\n"


async def test_json_is_the_servers_answer(tunnelctl, core) -> None:
    core.nodes = [NodeView(name="edge-1")]
    nodes = json.loads((await tunnelctl("nodes", "--json"))[1])["nodes"]
    assert [(node["name"], node["connected"]) for node in nodes] == [("edge-1", False)]
