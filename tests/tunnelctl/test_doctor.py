"""`tunnelctl doctor` against the real admin API."""

import dataclasses
import datetime
import json

import pytest

from tunnel_server.admin.diagnosis_views import AddressView, DiagnosisView, ProbeView
from tunnel_server.admin.views import InterceptionView, MappingView, NodeView
from tunnelctl.checks import Check, State
from tunnelctl.doctor import lines

NOW = datetime.datetime.now(datetime.UTC)
ADDRESS, LOOPBACK = "192.168.2.143", "127.0.0.1"


@pytest.fixture
def known(core) -> None:
    core.diagnosis = DiagnosisView(
        name="edge-1", server_version="1", server_time=NOW, uptime_seconds=60, answers=True,
        node=NodeView(name="edge-1", connected=True, since=NOW - datetime.timedelta(days=3, hours=1),
            addresses=(ADDRESS,), agent_version="1", remote_address="203.0.113.11:5", rtt_ms=3.0),
        addresses=(AddressView(address=ADDRESS, held=True, captured=True, routed=True),),
        interception=InterceptionView(state="active", addresses=1),
        mappings=(MappingView(port=9081, listener_port=10264, source="added"),),
    )  # fmt: skip
    core.probes = {host: ProbeView(host=host, port=9081, ok=True, ms=2.0) for host in (ADDRESS, LOOPBACK)}


async def test_a_sound_path(known, tunnelctl) -> None:
    code, out, err = await tunnelctl("doctor", "edge-1", "9081")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "✓ server     version 1, up 1m",
        "✓ name       edge-1 is known",
        "- token      forgotten by now",
        "✓ link       connected for 3d 1h from 203.0.113.11:5, agent 1",
        "✓ heartbeat  round trip 3.0 ms",
        "✓ address    192.168.2.143 is captured, and routed",
        "✓ port       9081 is mapped to listener 10264 (added)",
        "✓ dial       192.168.2.143:9081 on edge-1 answers, 2 ms",
    ]


async def test_a_target_that_fails_has_its_remedy_below(known, core, tunnelctl) -> None:
    for host in (ADDRESS, LOOPBACK):
        core.probes[host] = ProbeView(host=host, port=9081, ok=False, cause="refused", ms=1.0)
    code, out, _ = await tunnelctl("doctor", "edge-1", "9081")
    assert code == 1
    told = out.splitlines()
    at = next(number for number, line in enumerate(told) if line.startswith("✗"))
    assert told[at] == "✗ dial       192.168.2.143:9081 on edge-1: refused after 1 ms"
    assert told[at + 1].startswith("             -> nothing listens there on the edge")


async def test_a_service_that_listens_on_the_edges_loopback_only(known, core, tunnelctl) -> None:
    core.probes[ADDRESS] = ProbeView(host=ADDRESS, port=9081, ok=False, cause="refused", ms=1.0)
    _, out, _ = await tunnelctl("doctor", "edge-1", "9081")
    assert (
        "own loopback only: have it listen on 192.168.2.143 too, or add 9081 to localhost-proxy-ports" in out
    )


async def test_what_fails_at_one_address_beside_one_that_answers_is_a_remark(known, core, tunnelctl) -> None:
    both = dataclasses.replace(core.diagnosis.node, addresses=(ADDRESS, "fd00::1"))
    core.diagnosis = dataclasses.replace(core.diagnosis, node=both)
    core.probes["fd00::1"] = ProbeView(host="fd00::1", port=9081, ok=False, cause="refused", ms=1.0)
    code, out, _ = await tunnelctl("doctor", "edge-1", "9081")
    assert code == 0
    assert "! dial       [fd00::1]:9081 on edge-1: refused" in out


async def test_a_node_without_addresses_is_dialled_on_its_loopback(known, core, tunnelctl) -> None:
    none = dataclasses.replace(core.diagnosis.node, addresses=())
    core.diagnosis = dataclasses.replace(core.diagnosis, node=none)
    code, out, _ = await tunnelctl("doctor", "edge-1", "9081")
    assert code == 0
    assert "✓ dial       127.0.0.1:9081 on edge-1 answers" in out


async def test_nothing_is_dialled_over_a_silent_link(known, core, tunnelctl) -> None:
    core.diagnosis = dataclasses.replace(
        core.diagnosis, answers=False, patience_seconds=5.0, silent_seconds=8.0, gives_up_seconds=4.0
    )
    core.probes.clear()
    code, out, _ = await tunnelctl("doctor", "edge-1", "9081")
    assert code == 1
    assert [line.split()[:2] for line in out.splitlines() if line[0] not in "✓ "] == [
        ["-", "token"], ["✗", "heartbeat"], ["-", "dial"]
    ]  # fmt: skip


async def test_what_does_not_count_in_the_configuration_is_a_remark(known, core, tunnelctl) -> None:
    core.diagnosis = dataclasses.replace(core.diagnosis, problems=('http-proxy-ports: "x" is no port',))
    code, out, _ = await tunnelctl("doctor", "edge-1")
    assert code == 0
    first, second = out.splitlines()[:2]
    assert first == '! server     version 1, up 1m; http-proxy-ports: "x" is no port'
    assert "check-config" in second


async def test_json_tells_what_the_text_does(known, core, tunnelctl) -> None:
    for host in (ADDRESS, LOOPBACK):
        core.probes[host] = ProbeView(host=host, port=9090, ok=False, cause="refused", ms=1.0)
    words = ("doctor", "edge-1", "9090")
    (code, text, _), (json_code, out, _) = await tunnelctl(*words), await tunnelctl(*words, "--json")
    answer = json.loads(out)
    assert (code, json_code, answer["ok"]) == (1, 1, False)
    assert {check["name"] for check in answer["checks"] if check["state"] == "failed"} == {"port", "dial"}
    assert text.splitlines() == lines([Check(**check) for check in answer["checks"]], "utf-8")


async def test_json(known, tunnelctl) -> None:
    code, out, _ = await tunnelctl("doctor", "edge-1", "--json")
    answer = json.loads(out)
    assert (code, answer["node"], answer["port"], answer["ok"]) == (0, "edge-1", None, True)
    assert answer["checks"][1] == {"name": "name", "state": "ok", "text": "edge-1 is known", "remedy": ""}
    assert [check["name"] for check in answer["checks"]][-1] == "address", "without a port nothing is dialled"


async def test_no_server(tunnelctl, capsys, tmp_path) -> None:
    from tunnelctl.cli import main

    assert main(["doctor", "edge-1", "--admin-socket", str(tmp_path / "none.sock")]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("✗ server  no server listens at ")
    assert out[1] == "          -> systemctl status tunnel-server"


def test_what_edges_wrote_steers_no_terminal_and_old_terminals_are_spared() -> None:
    check = Check("link", State.FAILED, "\x1b[2J", "try\nagain")
    assert lines([check], "utf-8") == ["✗ link  ?[2J", "        -> try?again"]
    assert lines([check], "ascii")[0].startswith("FAILED link")
    assert lines([Check("a", State.OK, "b", "unasked")], None) == ["ok     a  b"]
