"""Each failing step is named, with its remedy; each sound one passes."""

from typing import Any

import pytest

from tunnelctl.checks import Check, State, check_dial, check_node

NOW = "2026-11-21T10:00:00Z"
NODE = {
    "name": "edge-1", "connected": True, "since": "2026-11-21T09:00:00Z",
    "remote_address": "203.0.113.11:4711",
    "agent_version": "1", "rtt_ms": 12.3, "problem": None,
}  # fmt: skip
ADDRESS = {
    "address": "192.168.2.143",
    "captured": True,
    "routed": True,
    "also_claimed_by": [],
    "refusal": "",
}
TOKEN = {
    "id": "1", "state": "used", "created": "2026-11-20T09:00:00Z", "expires": "2026-11-21T09:00:00Z",
    "used": "2026-11-20T10:00:00Z",
}  # fmt: skip
KNOWN: dict[str, Any] = {
    "name": "edge-1", "server_version": "1", "server_time": NOW, "uptime_seconds": 60, "node": NODE,
    "known_names": [], "tokens": [TOKEN], "certificate_expires": "2027-11-21T10:00:00Z",
    "certificate_revoked": "",
    "silent_seconds": 0.4, "addresses": [ADDRESS],
    "interception": {"state": "active", "problems": []},
    "mappings": [{"port": 9081, "listener_port": 10264, "source": "added"}],
}  # fmt: skip


def checks(port: int | None = 9081, **differently: Any) -> list[Check]:
    return list(check_node({**KNOWN, **differently}, port))


def failed(port: int | None = 9081, **differently: Any) -> Check:
    found = [check for check in checks(port, **differently) if check.state is State.FAILED]
    assert len(found) == 1, found
    return found[0]


def test_a_sound_path() -> None:
    found = checks()
    assert {check.state for check in found} == {State.OK}
    assert [check.name for check in found] == [
        "server", "name", "token", "certificate", "link", "heartbeat", "address", "port"
    ]  # fmt: skip


def test_an_unknown_name_with_one_like_it() -> None:
    check = next(
        c
        for c in checks(node=None, known_names=["edge-01", "gate"], tokens=[], addresses=[])
        if c.name == "name"
    )
    assert check.state is State.FAILED
    assert "did you mean edge-01?" in check.remedy
    assert "tunnelctl token create --node edge-1" in check.remedy


@pytest.mark.parametrize(
    ("token", "text"),
    [
        ({"state": "live", "used": None}, "not used yet, good until 2026-11-21 09:00:00 UTC"),
        ({"state": "expired", "used": None}, "expired 2026-11-21 09:00:00 UTC before it was used"),
        ({"state": "revoked", "used": None}, "revoked before it was used"),
    ],
)
def test_a_token_that_has_not_become_a_node(token, text) -> None:
    found = checks(node=None, tokens=[{**TOKEN, **token}], addresses=[], certificate_expires=None)
    names = [(check.name, check.state) for check in found]
    assert names == [("server", State.OK), ("name", State.FAILED), ("token", State.FAILED)]
    assert text in found[2].text


def test_a_second_token_that_waits_is_no_failure() -> None:
    found = checks(tokens=[TOKEN, {**TOKEN, "state": "live", "used": None}])
    assert State.FAILED not in {check.state for check in found}
    assert State.WARNING in {check.state for check in found}


def test_an_expired_certificate_names_the_clock() -> None:
    check = failed(certificate_expires="2026-11-21T09:59:59Z")
    assert check.name == "certificate"
    assert "the server's clock says 2026-11-21 10:00:00 UTC" in check.text
    assert "token create" in check.remedy


def test_a_revoked_certificate() -> None:
    check = failed(certificate_revoked="node edge-1 was revoked at 2026-11-21 09:00:00 UTC: stolen")
    assert check.name == "certificate"
    assert "stolen" in check.text
    assert "token create" in check.remedy


def test_a_certificate_that_should_have_been_renewed() -> None:
    found = checks(certificate_expires="2026-11-22T10:00:00Z")
    assert [check.state for check in found if check.name == "certificate"] == [State.WARNING]


def test_a_node_that_is_away() -> None:
    away = {**NODE, "connected": False, "rtt_ms": None}
    check = failed(node=away, silent_seconds=None)
    assert check.name == "link"
    assert "last seen" in check.text
    assert "10266/status" in check.remedy
    states = {c.name: c.state for c in checks(node=away, silent_seconds=None)}
    assert states["heartbeat"] is State.SKIPPED
    assert states["address"] is State.OK, "it stays captured while it is away"


def test_two_machines_with_one_certificate() -> None:
    problem = (
        "two machines use the certificate of edge-1: 203.0.113.11:1 is connected, 203.0.113.12:1 is refused"
    )
    check = failed(node={**NODE, "problem": problem})
    assert (check.name, check.text) == ("link", problem)
    assert "a token of its own" in check.remedy


def test_a_link_that_is_silent_or_slow() -> None:
    assert failed(silent_seconds=20.0).name == "heartbeat"
    slow = checks(node={**NODE, "rtt_ms": 2000.0})
    assert [check.state for check in slow if check.name == "heartbeat"] == [State.WARNING]


@pytest.mark.parametrize(
    ("address", "text", "remedy"),
    [
        (
            {"also_claimed_by": ["edge-2"], "captured": True},
            "claimed by edge-2 too",
            "tunnelctl port-forward edge-1",
        ),
        (
            {"captured": False, "refusal": "an address of this host"},
            "not captured: an address of this host",
            "",
        ),
        ({"routed": False}, "no route to it", "ip route add 192.168.2.143 dev lo"),
    ],
)
def test_an_address_that_callers_do_not_reach(address, text, remedy) -> None:
    check = failed(addresses=[{**ADDRESS, **address}])
    assert check.name == "address"
    assert text in check.text
    assert remedy in check.remedy


def test_an_address_outside_of_the_rules() -> None:
    problem = "127.0.0.5 is refused: it is loopback"
    known = {"node": {**NODE, "problem": problem}, "addresses": []}
    found = checks(**known)
    assert any(problem in check.text and check.state is State.FAILED for check in found), found


def test_interception_that_failed_or_is_off() -> None:
    check = failed(interception={"state": "failed", "problems": ["no nftables"]})
    assert (check.name, check.text) == ("address", "nothing is captured: no nftables")
    off = checks(interception={"state": "off", "problems": []}, port=9999)
    assert State.FAILED not in {check.state for check in off}


def test_a_port_that_is_not_mapped() -> None:
    check = failed(port=9090)
    assert check.name == "port"
    assert "tunnelctl map-port 9090=10264" in check.remedy


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
    check = check_dial(NODE, probe(ok=True, host="fd00::1"))
    assert (check.state, check.text) == (State.OK, "[fd00::1]:80 on edge-1 answers, 3 ms")


@pytest.mark.parametrize(
    ("cause", "name", "remedy"),
    [
        ("refused", "dial", "nothing listens there"),
        ("timed-out", "dial", "firewall"),
        ("not-allowed", "allow-list", "add it to `allow`"),
        ("not-on-this-node", "dial", "another address now"),
        ("link-lost", "dial", "link above"),
        ("something-new", "dial", "the agent's log"),
    ],
)
def test_a_target_that_does_not(cause, name, remedy) -> None:
    check = check_dial(NODE, probe(cause=cause, detail="why"))
    assert (check.state, check.name) == (State.FAILED, name)
    assert f"{cause} after 3 ms (why)" in check.text
    assert remedy in check.remedy
