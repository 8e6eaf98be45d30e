"""Name, token and certificate: what fails in each is named, with its remedy."""

from typing import Any

import pytest

from tests.tunnelctl.diagnosis import KNOWN, TOKEN
from tunnelctl.checks import Check, State
from tunnelctl.checks_identity import check_certificate, check_name, check_token

UNKNOWN: dict[str, Any] = {**KNOWN, "node": None, "tokens": [], "addresses": [], "certificate_expires": None}


def certificate(**differently: Any) -> Check:
    (check,) = check_certificate({**KNOWN, **differently})
    return check


def test_all_is_well() -> None:
    found = [check_name(KNOWN), check_token(KNOWN), certificate()]
    assert [check.name for check in found] == ["name", "token", "certificate"]
    assert {check.state for check in found} == {State.OK}
    assert "the server's clock says 2026-11-21 10:00:00 UTC" in found[2].text


def test_an_unknown_name_with_one_like_it() -> None:
    check = check_name({**UNKNOWN, "known_names": ["edge-01", "gate"]})
    assert (check.state, check.text) == (State.FAILED, "there is no node edge-1")
    assert check.remedy == "did you mean edge-01? A new one: tunnelctl token create --node edge-1 --ip IP"
    assert check_token(UNKNOWN).state is State.SKIPPED, "one step fails, not two"


def test_an_unknown_name_unlike_all_others() -> None:
    check = check_name({**UNKNOWN, "known_names": ["gate"]})
    assert check.remedy.startswith("`tunnelctl nodes` lists those there are. A new one: ")


@pytest.mark.parametrize(
    ("token", "text", "remedy"),
    [
        ({"state": "live"}, "not used yet, good until 2026-11-21 09:00:00 UTC", "run its join line"),
        (
            {"state": "expired"},
            "expired 2026-11-21 09:00:00 UTC before it was used",
            "tunnelctl token create",
        ),
        ({"state": "revoked"}, "revoked before it was used", "tunnelctl token create"),
        (TOKEN, "used 2026-11-20 10:00:00 UTC, and the node was forgotten since", "it is known again once"),
    ],
)
def test_a_token_that_has_not_become_a_node(token: dict[str, Any], text: str, remedy: str) -> None:
    known = {**UNKNOWN, "tokens": [TOKEN, {**TOKEN, "used": None, **token}], "known_names": ["edge-2"]}
    name, check = check_name(known), check_token(known)
    assert (name.state, name.text) == (State.OK, "edge-1 is known by its join token")
    assert check.state is State.FAILED
    assert text in check.text
    assert check.remedy.startswith(remedy)


def test_a_token_is_no_concern_of_a_node_that_has_joined() -> None:
    waiting = {**KNOWN, "tokens": [TOKEN, {**TOKEN, "state": "live", "used": None}]}
    assert check_token(waiting).state is State.WARNING
    assert check_token({**KNOWN, "tokens": []}).state is State.SKIPPED


@pytest.mark.parametrize(
    ("differently", "text", "remedy"),
    [
        (
            {"certificate_expires": "2026-11-21T09:59:59Z"},
            "expired 2026-11-21 09:59:59 UTC",
            "set it (NTP); else",
        ),
        (
            {"certificate_begins": "2026-11-21T10:00:01Z"},
            "valid from 2026-11-21 10:00:01 UTC only",
            "set it (NTP)",
        ),
        (
            {"certificate_revoked": "node edge-1 was revoked: stolen"},
            "stolen",
            "token create --node edge-1 --ip 192.",
        ),
    ],
)
def test_a_certificate_that_is_refused(differently: dict[str, Any], text: str, remedy: str) -> None:
    check = certificate(**differently)
    assert (check.name, check.state) == ("certificate", State.FAILED)
    assert text in check.text
    assert remedy in check.remedy
    if "revoked" not in check.text:
        assert "the server's clock says 2026-11-21 10:00:00 UTC" in check.text


def test_a_certificate_that_should_have_been_renewed() -> None:
    check = certificate(certificate_expires="2026-11-22T10:00:00Z")
    assert check.state is State.WARNING
    assert "1d 0h only" in check.text


def test_a_node_that_never_had_one() -> None:
    assert list(check_certificate(UNKNOWN)) == []
