"""Which ways can be laid here; test_quick has those that are laid."""

from dataclasses import replace

import pytest

from bench.routes import LONG, LOOPBACK, missing, missing_for_shaping


def test_loopback_is_always_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert missing(LOOPBACK) is None


def test_a_shaped_way_needs_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert missing(LONG) == "unshare is not installed: apt-get install util-linux"


def test_and_its_congestion_control() -> None:
    why = missing(replace(LONG, congestion="gold"))
    assert why
    assert why.startswith("TCP gold is not allowed: modprobe tcp_gold; sysctl -w ")
    assert why.endswith(' gold"')
    assert missing(LONG) == missing_for_shaping()
