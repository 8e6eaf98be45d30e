"""Whose an object is."""

from typing import Any

import pytest

from tunnelctl.install.ownership import AT_RUN_TIME, INSTALL, is_ours, maker, marked

NAME = "app.kubernetes.io/name"
MADE_BY = "app.kubernetes.io/managed-by"
WANTED: dict[str, Any] = {"kind": "ConfigMap", "metadata": {"name": "c", "labels": {"x": "y"}}}


@pytest.mark.parametrize(
    ("name", "made_by", "expected"),
    [
        ("edge-tunnel", "tunnelctl", INSTALL),
        ("edge-tunnel", "tunnel-server", AT_RUN_TIME),
        ("edge-tunnel", "Helm", ""),
        ("other", "tunnelctl", ""),
    ],
)
def test_by_one_label(name: str, made_by: str, expected: str) -> None:
    live = {"metadata": {"labels": {NAME: name, MADE_BY: made_by}}}
    assert maker(live) == expected
    assert is_ours(live) is bool(expected)


def test_a_name_like_ours_makes_nothing_ours() -> None:
    assert not is_ours({"metadata": {"name": "tunnel-server-tls"}})
    assert not is_ours({"metadata": {"name": "edge-tunnel-ca", "labels": {NAME: "edge-tunnel"}}})


def test_only_what_an_install_makes_bears_the_label() -> None:
    made = marked(WANTED, None)
    assert made["metadata"]["labels"] == {"x": "y", NAME: "edge-tunnel", MADE_BY: "tunnelctl"}
    assert WANTED["metadata"]["labels"] == {"x": "y"}
    assert marked(WANTED, {"metadata": {"name": "c"}}) == WANTED
    assert marked(WANTED, made) == made
