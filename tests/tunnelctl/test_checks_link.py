"""The link and its heartbeat: what was seen of an agent that is away is told, with a remedy that fits."""

from typing import Any

import pytest

from tests.tunnelctl.diagnosis import AWAY, KNOWN, NODE
from tunnelctl.checks import Check, State
from tunnelctl.checks_link import check_link

CUT = {"time": "2026-11-21T09:00:00Z", "host": "203.0.113.11", "reason": "the connection was cut"}


def link(known: dict[str, Any], *, refused: bool = False, **differently: Any) -> tuple[Check, Check]:
    first, second = check_link({**known, **differently}, refused=refused)
    assert (first.name, second.name) == ("link", "heartbeat")
    return first, second


def away(**differently: Any) -> Check:
    found, heartbeat = link(AWAY, **differently)
    assert (found.state, heartbeat.state) == (State.FAILED, State.SKIPPED)
    assert found.text.startswith("no connection from its agent ")
    return found


def test_a_link_that_lives() -> None:
    found, heartbeat = link(KNOWN)
    assert (found.state, heartbeat.state) == (State.OK, State.OK)
    assert "from 203.0.113.11:4711, agent 1" in found.text
    assert heartbeat.text == "round trip 12.3 ms"


def test_a_silent_link() -> None:
    found, heartbeat = link(KNOWN, answers=False, silent_seconds=8.5, gives_up_seconds=3.5)
    assert (found.state, heartbeat.state) == (State.OK, State.FAILED)
    assert heartbeat.text == (
        "no answer to a PING within 5 s, last heard 8.5 s ago; the server gives the link up in 3s"
    )
    for word in ("uplink", "firewall", "NAT", "Ask again in 3s", 'its journal then says "nothing received"'):
        assert word in heartbeat.remedy


@pytest.mark.parametrize(
    ("ahead", "said"),
    [
        (59.0, ""), (-59.0, ""), (None, ""),
        (200.0, "its clock was 3m ahead of the server's"),
        (-7200.0, "its clock was 2h 0m behind the server's"),
    ],
)  # fmt: skip
def test_a_clock_that_is_off(ahead: float | None, said: str) -> None:
    found, _ = link(KNOWN, clock_ahead_seconds=ahead)
    assert found.state is (State.WARNING if said else State.OK)
    assert said in found.text
    assert ("NTP" in found.remedy) is bool(said)


def test_a_slow_link() -> None:
    assert link(KNOWN, node={**NODE, "rtt_ms": 2000.0})[1].state is State.WARNING
    assert link(KNOWN, node={**NODE, "rtt_ms": None})[1].state is State.OK, "it has just come"


def test_two_machines_with_one_certificate() -> None:
    problem = (
        "two machines use the certificate of edge-1: 203.0.113.11:1 is connected, 203.0.113.12:1 is refused"
    )
    found, _ = link(KNOWN, node={**NODE, "problem": problem})
    assert (found.state, found.text) == (State.FAILED, problem)
    assert "a token of its own" in found.remedy


def test_one_that_was_not_here_since_the_server_started() -> None:
    found = away(node={**AWAY["node"], "since": None})
    assert found.text.endswith("since the server started")
    assert "10266/status" in found.remedy


def test_how_the_last_link_ended() -> None:
    found = away(last_end=CUT)
    assert "its link from 203.0.113.11 ended: the connection was cut" in found.text
    assert "systemctl status tunnel-agent" in found.remedy
    silent = away(last_end={**CUT, "reason": "nothing received for 12 s"})
    assert silent.remedy.startswith("the network fell silent")


@pytest.mark.parametrize(
    ("alert", "text", "remedy"),
    [
        ("bad-certificate", "not valid yet", "it may be behind"),
        ("certificate-expired", "expired", "it may be ahead"),
        ("unknown-ca", "the authority", "tunnelctl restore"),
    ],
)
def test_an_agent_that_refuses_the_servers_certificate(alert: str, text: str, remedy: str) -> None:
    broken = {"time": CUT["time"], "host": "203.0.113.11", "alert": alert}
    found = away(last_end=CUT, broken_handshake=broken)
    assert "an agent at 203.0.113.11, where it was linked from, " in found.text
    assert text in found.text
    assert remedy in found.remedy
    assert "which may be this one" in away(broken_handshake=broken).text


def test_no_second_failure_where_the_certificate_is_refused() -> None:
    found, heartbeat = link(AWAY, refused=True)
    assert (found.state, heartbeat.state) == (State.SKIPPED, State.SKIPPED)
    assert "its certificate is refused" in found.text
