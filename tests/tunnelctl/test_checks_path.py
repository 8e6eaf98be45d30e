"""Address, port, allow-list and dial: what fails in each is named, with its remedy."""

from typing import Any

import pytest

from tests.tunnelctl.diagnosis import ADDRESS, KNOWN
from tunnelctl.checks import Check, State
from tunnelctl.checks_path import check_addresses, check_dial, check_port

ON = KNOWN["interception"]


def address(*, refused: bool = False, interception: dict[str, Any] = ON, **differently: Any) -> Check:
    known = {**KNOWN, "addresses": [{**ADDRESS, **differently}], "interception": interception}
    (check,) = check_addresses(known, refused=refused)
    assert check.name == "address"
    return check


def test_an_address_that_callers_reach() -> None:
    assert address() == Check("address", State.OK, "192.168.2.143 is captured, and routed")


@pytest.mark.parametrize(
    ("differently", "text", "remedy"),
    [
        (
            {"captured": False, "held": False, "refusal": "outside the edge networks (10.0.0.0/8)"},
            "not captured: outside the edge networks",
            "edge-networks, or give the edge another address: tunnelctl token create --node edge-1 --ip IP",
        ),
        (
            {"captured": False, "refusal": "an address of this host"},
            "not captured: an address of this host",
            "",
        ),
        ({"captured": False}, "is not captured", "journalctl -u tunnel-server"),
        ({"routed": False}, "no route to it", "ip route add 192.168.2.143 dev lo"),
    ],
)
def test_an_address_that_callers_do_not_reach(differently: dict[str, Any], text: str, remedy: str) -> None:
    check = address(**differently)
    assert check.state is State.FAILED
    assert text in check.text
    assert remedy in check.remedy


@pytest.mark.parametrize(
    ("connected", "since", "presence", "remedy"),
    [
        (True, None, "connected", "reach it by name (tunnelctl port-forward edge-1 ...), or join one"),
        (False, "2026-11-21T09:30:00Z", "away for", "reach it by name"),
        (
            False,
            "2026-11-20T09:30:00Z",
            "away for",
            "if it is gone for good: tunnelctl nodes forget edge-2; else reach",
        ),
        (False, None, "not here since the server started", "reach it by name"),
    ],
)
def test_an_address_that_is_shared(connected: bool, since: str | None, presence: str, remedy: str) -> None:
    check = address(claimants=[{"name": "edge-2", "connected": connected, "away_since": since}])
    assert check.state is State.FAILED
    assert f"192.168.2.143 is claimed by edge-2 ({presence}" in check.text
    assert check.remedy.startswith(remedy)


def test_a_claimant_that_was_never_here_in_days_is_gone() -> None:
    known = {**KNOWN, "uptime_seconds": 100_000.0}
    claimant = {"name": "edge-2", "connected": False, "away_since": None}
    (check,) = check_addresses({**known, "addresses": [{**ADDRESS, "claimants": [claimant]}]}, refused=False)
    assert "tunnelctl nodes forget edge-2" in check.remedy


def test_the_addresses_of_a_refused_certificate_are_no_failure_of_their_own() -> None:
    check = address(refused=True, held=False, captured=False)
    assert (check.state, check.remedy) == (State.SKIPPED, "")
    assert address(refused=True).state is State.OK, "still captured, and that is said"


def test_interception_that_failed_or_is_off() -> None:
    failed = address(interception={"state": "failed", "restored": 0, "problems": ["no nftables"]})
    assert (failed.state, failed.text) == (
        State.FAILED,
        "192.168.2.143 is not captured, nothing is: no nftables",
    )
    off = {"state": "off", "restored": 0, "problems": []}
    assert address(interception=off, captured=False).state is State.WARNING
    assert list(check_port({**KNOWN, "interception": off}, 9999)) == []


def test_a_table_that_somebody_flushed() -> None:
    check = address(interception={**ON, "restored": 3})
    assert check.state is State.WARNING
    assert "put back 3 times" in check.text
    assert "put back once" in address(interception={**ON, "restored": 1}).text


def test_no_address() -> None:
    (check,) = check_addresses({**KNOWN, "addresses": []}, refused=False)
    assert check.state is State.WARNING
    assert list(check_port({**KNOWN, "addresses": []}, 9999)) == []


def test_ports() -> None:
    (check,) = check_port(KNOWN, 9081)
    assert check == Check("port", State.OK, "9081 is mapped to listener 10264 (added)")
    (check,) = check_port(KNOWN, 9090)
    assert (check.name, check.state) == ("port", State.FAILED)
    assert "tunnelctl map-port 9090=10264" in check.remedy
    assert check.remedy.endswith("CONNECT, port-forward and connect need none")


def probe(**differently: Any) -> dict[str, Any]:
    return {
        "host": "192.168.2.143",
        "port": 80,
        "ok": False,
        "cause": None,
        "detail": "",
        "ms": 3.2,
        **differently,
    }


def test_a_target_that_answers() -> None:
    check = check_dial(KNOWN, probe(ok=True, host="fd00::1"))
    assert (check.state, check.text) == (State.OK, "[fd00::1]:80 on edge-1 answers, 3 ms")


@pytest.mark.parametrize(
    ("cause", "name", "remedy"),
    [
        ("refused", "dial", "nothing listens there"),
        ("timed-out", "dial", "firewall"),
        ("not-allowed", "allow-list", "add it to `allow`"),
        ("not-on-this-node", "dial", "tunnelctl token create --node edge-1 --ip IP"),
        ("unreachable", "dial", "no route"),
        ("no-room", "dial", "tunnelctl status"),
        ("away", "dial", "ask again"),
        ("link-lost", "dial", "ask again"),
        ("something-new", "dial", "the agent's log"),
    ],
)
def test_a_target_that_does_not(cause: str, name: str, remedy: str) -> None:
    check = check_dial(KNOWN, probe(cause=cause, detail="why"))
    assert (check.state, check.name) == (State.FAILED, name)
    assert f"{cause} after 3 ms (why)" in check.text
    assert remedy in check.remedy
