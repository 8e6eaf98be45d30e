"""`tunnelctl backup`, and back, as the command line calls them."""


def test_there_and_back(local_tunnelctl, passphrase, tmp_path):
    file = tmp_path / "b"
    assert "encrypted" in local_tunnelctl("backup", str(file), *passphrase)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir() if each.name.endswith(".new")] == []
    assert "restored 4 files" in local_tunnelctl("restore", str(file), *passphrase, state="other")
    for each in (tmp_path / "state").iterdir():
        assert (tmp_path / "other" / each.name).read_bytes() == each.read_bytes()
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o700
    assert "not empty" in local_tunnelctl("restore", str(file), *passphrase, state="other", code=4)
    assert "exists" in local_tunnelctl("backup", str(file), *passphrase, code=4)


def test_in_the_clear_only_when_asked_to(local_tunnelctl, tmp_path, monkeypatch):
    file = tmp_path / "b"
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert "no terminal" in local_tunnelctl("backup", str(file), code=2)
    assert not file.exists()
    assert "not encrypted" in local_tunnelctl("backup", str(file), "--no-encryption")
    assert "restored" in local_tunnelctl("restore", str(file), state="other")
