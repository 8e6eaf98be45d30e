"""Peers whose programs are seldom installed: what can be tried of them without."""

import sys
import tomllib
from pathlib import Path

import pytest

from bench.peers.chisel import fingerprint
from bench.peers.frp import Frp
from bench.peers.peer import PeerFailed, Stage

# Listens at a port: enough of a server for an agent to be started.
LISTENER = """\
import socket, sys, time
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    time.sleep(60)
"""


def test_frps_and_frpcs_files_agree(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, client = tmp_path / "frps", tmp_path / "frpc"
    listener = tmp_path / "listener.py"
    listener.write_text(LISTENER)
    server.write_text(f"#!/bin/sh\nexec {sys.executable} {listener} {stage.wan_server[1]}\n")
    client.write_text("#!/bin/sh\necho no login\nexit 1\n")
    for program in (server, client):
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(PeerFailed, match="no login"):
        Frp().start(stage)
    listens = tomllib.loads((stage.scratch / "frps.toml").read_text())
    dials = tomllib.loads((stage.scratch / "frpc-1.toml").read_text())
    assert (listens["bindAddr"], listens["bindPort"]) == stage.wan_server
    assert (dials["serverAddr"], dials["serverPort"]) == stage.wan_dial
    assert listens["auth"] == dials["auth"]
    assert listens["transport"]["tls"]["force"] is True
    assert (dials["proxies"][0]["localIP"], dials["proxies"][0]["localPort"]) == stage.target
    assert (stage.scratch / "frpc-1.toml").stat().st_mode & 0o077 == 0  # a token is in it


def test_chisels_fingerprint_is_found_in_its_log() -> None:
    key = "rHb55mcxf6vSckL2AezFV09rLs7pfPpavVu++MF7AhQ="
    log = f"2026/01/01 10:00:00 server: Fingerprint {key}\n2026/01/01 10:00:00 server: Listening on ...\n"
    assert fingerprint(log) == key
    with pytest.raises(PeerFailed, match="no fingerprint\nsomething else"):
        fingerprint("something else")
