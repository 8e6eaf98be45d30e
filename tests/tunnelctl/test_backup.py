"""`tunnelctl backup`, and back, as the command line calls them."""

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


def test_there_and_back(tunnelctl, passphrase, tmp_path):
    file = tmp_path / "b"
    assert "encrypted" in tunnelctl("backup", str(file), *passphrase)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir() if each.name.endswith(".new")] == []
    assert "restored 4 files" in tunnelctl("restore", str(file), *passphrase, state="other")
    for each in (tmp_path / "state").iterdir():
        assert (tmp_path / "other" / each.name).read_bytes() == each.read_bytes()
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o700
    assert "not empty" in tunnelctl("restore", str(file), *passphrase, state="other", code=4)
    assert "exists" in tunnelctl("backup", str(file), *passphrase, code=4)


def test_in_the_clear_only_when_asked_to(tunnelctl, tmp_path, monkeypatch):
    file = tmp_path / "b"
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert "no terminal" in tunnelctl("backup", str(file), code=2)
    assert not file.exists()
    assert "not encrypted" in tunnelctl("backup", str(file), "--no-encryption")
    assert "restored" in tunnelctl("restore", str(file), state="other")
