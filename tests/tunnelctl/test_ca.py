"""`tunnelctl ca roll`, as the command line calls them."""

import json

import pytest

from tunnelctl.cli import main


@pytest.fixture
def tunnelctl(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tunnelctl.local_server.DEFAULT_CONFIG", tmp_path / "server.toml")

    def run(*words, state="state", code=0):
        assert main([*words, "--state-dir", str(tmp_path / state)]) == code
        said = capsys.readouterr()
        assert len(said.err.splitlines()) == (1 if code else 0)
        return said.err if code else said.out

    run("init", "--cert-ips", "127.0.0.1")
    return run


def test_a_roll_is_guided(tunnelctl):
    assert "no roll is on; `tunnelctl ca roll start`" in tunnelctl("ca", "roll", "status")
    assert "no roll is on" in tunnelctl("ca", "roll", "switch", code=4)
    before = json.loads(tunnelctl("ca", "roll", "status", "--json"))
    assert "next: tunnelctl ca roll switch" in tunnelctl("ca", "roll", "start")
    tunnelctl("token", "create", "--node", "edge-1")
    assert "(node edge-1): its join line stops working" in tunnelctl("ca", "roll", "status")
    assert "next: tunnelctl ca roll finish" in tunnelctl("ca", "roll", "switch")
    assert "no roll is on" in tunnelctl("ca", "roll", "finish")
    after = json.loads(tunnelctl("ca", "roll", "status", "--json"))
    assert after["phase"] == "none"
    assert after["issuing"] != before["issuing"]
