"""What the judges of the steps share."""

from tests.tunnelctl.diagnosis import ADDRESS, KNOWN
from tunnelctl.checks import new_token, some, told


def test_a_new_token_has_the_addresses_of_the_node() -> None:
    both = {**KNOWN, "addresses": [ADDRESS, {**ADDRESS, "address": "fd00::1"}]}
    assert new_token(both) == "tunnelctl token create --node edge-1 --ip 192.168.2.143 --ip fd00::1"
    assert new_token({**KNOWN, "addresses": []}) == "tunnelctl token create --node edge-1 --ip IP"


def test_a_moment_as_people_read_it() -> None:
    assert told("2026-11-21T09:00:00Z") == "2026-11-21 09:00:00 UTC"


def test_names_that_are_too_many_are_counted() -> None:
    assert some(["a", "b"]) == "a, b"
    assert some(["a", "b", "c", "d"], 2) == "a, b, and 2 more"
