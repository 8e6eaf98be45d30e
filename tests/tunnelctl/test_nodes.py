"""`tunnelctl nodes` against the real admin API."""

import datetime
import json

from tunnel_server.admin.views import ForgottenView, LinkView, NodeView
from tunnelctl.cli import main


async def test_nodes_are_a_table_and_problems_stand_below(tunnelctl, core) -> None:
    now = datetime.datetime.now(datetime.UTC)
    core.nodes = [
        NodeView(
            name="edge-1", addresses=("192.168.2.143",), captured=("192.168.2.143",), connected=True,
            since=now - datetime.timedelta(hours=2, seconds=30), agent_version="0.1.0",
            remote_address="10.1.1.9", rtt_ms=12.34, open_calls=3, bytes_up=2048, bytes_down=5 * 2**20,
        ),
        NodeView(
            name="edge-22", addresses=("10.0.0.1", "10.0.0.2"), captured=("10.0.0.2",),
            problem="a\x1b[31m\nb", open_calls=2, suspended_calls=2,
        ),
    ]  # fmt: skip
    code, out, err = await tunnelctl("nodes")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "NAME     STATE      FOR    ADDRESSES            FROM          RTT  CALLS     SENT  RECEIVED  AGENT",
        "edge-1   connected  2h 0m  192.168.2.143        10.1.1.9  12.3 ms      3  2.0 KiB   5.0 MiB  0.1.0",
        "edge-22  away       -      [10.0.0.1],10.0.0.2  -               -      2      0 B       0 B  -",
        "edge-22: a?[31m?b",
        "edge-22: 2 calls wait for it to come back",
    ]


async def test_of_several_links_the_others_are_counted_and_a_silent_one_is_named(tunnelctl, core) -> None:
    now = datetime.datetime.now(datetime.UTC)
    links = tuple(
        LinkView(
            index=index, remote_address=f"10.1.1.9:{port}", since=now, calls=1, unanswered_seconds=silent
        )
        for index, port, silent in ((1, 5001, 7.4), (0, 5002, 2.9))
    )
    core.nodes = [
        NodeView(name="edge-1", connected=True, since=now, remote_address="10.1.1.9:5002", links=links),
        NodeView(name="edge-2", connected=True, since=now, remote_address="10.1.1.9:5001", links=links[:1]),
    ]
    lines = (await tunnelctl("nodes"))[1].splitlines()
    assert [line.split()[4:6] for line in lines[1:3]] == [["10.1.1.9:5002", "(+1)"], ["10.1.1.9:5001", "-"]]
    assert lines[3:] == [
        "edge-1: one of 2 links, from 10.1.1.9:5001, has been silent for 7 s: the others carry its calls"
    ]
    told = json.loads((await tunnelctl("nodes", "--json"))[1])["nodes"][0]["links"]
    assert [(link["index"], link["calls"], link["retiring"]) for link in told] == [
        (1, 1, False),
        (0, 1, False),
    ]


async def test_no_nodes_says_what_to_do(tunnelctl) -> None:
    assert (await tunnelctl("nodes"))[1] == "no node has joined yet: see `tunnelctl token create --help`\n"


async def test_a_node_is_forgotten(tunnelctl, core) -> None:
    core.forgotten["edge-1"] = ForgottenView(
        name="edge-1",
        addresses=("192.168.2.143", "fd00::1"),
        certificate_serial="1f",
        certificate_expires=datetime.datetime(2126, 1, 31, tzinfo=datetime.UTC),
    )
    code, out, err = await tunnelctl("nodes", "forget", "edge-1")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first == "edge-1 is forgotten: 192.168.2.143, fd00::1 may be another's"
    assert "it is known again, until its certificate ends (2126-01-31T00:00:00Z)" in second
    assert second.endswith("tunnelctl revoke --serial 1f")
    core.forgotten["edge-2"] = ForgottenView(name="edge-2", certificate_revoked="stolen")
    assert (await tunnelctl("nodes", "forget", "edge-2"))[1] == "edge-2 is forgotten\n"
    core.forgotten["edge-1"] = ForgottenView(name="edge-1", addresses=("192.168.2.143",))
    for words in (("nodes", "--json", "forget", "edge-1"), ("nodes", "forget", "edge-1", "--json")):
        answer = json.loads((await tunnelctl(*words))[1])
        assert (answer["name"], answer["addresses"]) == ("edge-1", ["192.168.2.143"])


async def test_who_is_not_forgotten(tunnelctl, core) -> None:
    code, out, err = await tunnelctl("nodes", "forget", "edge-9")
    assert (code, out) == (4, "")
    assert err == "tunnelctl: no node is called edge-9\n"
    core.forgotten["edge-1"] = ValueError("edge-1 is linked from 203.0.113.9:1: stop its agent first")
    code, out, err = await tunnelctl("nodes", "forget", "edge-1")
    assert (code, out) == (4, "")
    assert "is linked from" in err
    code, out, err = await tunnelctl("nodes", "forget", "../mappings/9081")
    assert (code, out) == (2, "")
    assert "is not a name" in err


def test_the_socket_is_named_before_or_behind_the_action(capsys) -> None:
    for words in (
        ["--admin-socket", "/nowhere", "forget", "a"],
        ["forget", "a", "--admin-socket", "/nowhere"],
    ):
        assert main(["nodes", *words]) == 3
        assert "no server listens at /nowhere" in capsys.readouterr().err


async def test_json_is_the_servers_answer(tunnelctl, core) -> None:
    core.nodes = [NodeView(name="edge-1")]
    nodes = json.loads((await tunnelctl("nodes", "--json"))[1])["nodes"]
    assert [(node["name"], node["connected"]) for node in nodes] == [("edge-1", False)]
