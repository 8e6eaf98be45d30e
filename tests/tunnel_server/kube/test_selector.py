"""Label selectors as kubectl takes them."""

import pytest

from tunnel_server.kube.selector import LabelSelector

LABELS = {"tier": "edge", "zone": "b", "node-role.kubernetes.io/worker": ""}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("tier=edge", True),
        ("tier==edge", True),
        ("tier=cloud", False),
        ("tier!=cloud", True),
        ("tier!=edge", False),
        ("missing!=edge", True),
        ("tier", True),
        ("missing", False),
        ("!missing", True),
        ("! tier", False),
        ("zone in (a, b)", True),
        ("zone in (a)", False),
        ("zone notin (a)", True),
        ("missing notin (a)", True),
        ("zone notin (a,b)", False),
        ("node-role.kubernetes.io/worker=", True),
        ("node-role.kubernetes.io/worker", True),
        (" tier = edge , zone in (b),!missing ", True),
        ("tier=edge,zone=a", False),
    ],
)
def test_what_it_selects(text: str, matches: bool) -> None:
    assert LabelSelector.parse(text).matches(LABELS) is matches


@pytest.mark.parametrize(
    "text", ["", " ", ",", "=a", "a=b c=d", "a in b", "a in (b", "a=b,,c", "a b", "a in (b!)", "a>1", "a=ü"]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"label"):
        LabelSelector.parse(text)
