"""`tunnelctl restore`: what is no backup, or not ours to open, leaves nothing behind."""

import json

import pytest

from tunnelctl.cli import main


@pytest.fixture
def passphrase(tmp_path):
    path = tmp_path / "passphrase"
    path.write_text("correct horse battery\nsecond line\n")
    return ("--passphrase-file", str(path))


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


def test_what_restores_nothing(tunnelctl, passphrase, tmp_path):
    file, wrong, short = tmp_path / "b", tmp_path / "wrong", tmp_path / "short"
    tunnelctl("backup", str(file), *passphrase)
    wrong.write_text("another passphrase")
    short.write_text("short")
    refused = [
        ((str(file), "--passphrase-file", str(wrong)), 1, "passphrase is another"),
        ((str(wrong),), 1, "no backup of a tunnel server"),
        ((str(tmp_path / "nowhere"),), 1, "No such file"),
        ((str(file), "--passphrase-file", str(tmp_path / "nowhere")), 2, "No such file"),
    ]
    for words, code, why in refused:
        assert why in tunnelctl("restore", *words, state="other", code=code)
        assert not (tmp_path / "other").exists()
    again = ("backup", str(tmp_path / "c"), "--passphrase-file", str(short))
    assert "at least 12" in tunnelctl(*again, code=2)


def test_json(tunnelctl, passphrase, tmp_path):
    tunnelctl("backup", str(tmp_path / "b"), *passphrase)
    report = json.loads(tunnelctl("restore", str(tmp_path / "b"), *passphrase, "--json", state="other"))
    assert report["state_dir"] == str(tmp_path / "other")
    assert report["created"].endswith("Z")
    assert "ca.key" in report["files"]
