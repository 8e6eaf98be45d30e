"""What programs say of their version."""

from pathlib import Path

import pytest

from bench.peers.binaries import find, version


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        ("OpenSSH_9.2p1 Debian-2+deb12u10, OpenSSL 3.0.19 27 Jan 2026", "9.2p1"),
        ("HAProxy version 2.6.12-1+deb12u4 2026/10/17", "2.6.12"),
        ("rathole\nBuild Timestamp: 2026-11-21T12:04:01.046246834Z\nBuild Version: 0.5.0", "0.5.0"),
        ("v0.52.3", "0.52.3"),
        ("unknown flag", "unknown"),
    ],
)
def test_a_version_is_found_in_what_is_said(tmp_path: Path, said: str, understood: str) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ncat <<'END' >&2\n{said}\nEND\nexit 1\n")
    program.chmod(0o755)
    assert version(str(program), "--version") == understood


def test_a_program_that_cannot_be_run_has_an_unknown_version(tmp_path: Path) -> None:
    assert version(str(tmp_path / "none")) == "unknown"


def test_a_program_is_found_where_only_the_administrators_path_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert find("sshd") == "/usr/sbin/sshd"
    assert find("no-such-program") is None
