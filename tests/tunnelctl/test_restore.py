"""`tunnelctl restore`: what is no backup, or not ours to open, leaves nothing behind."""

import json


def test_what_restores_nothing(local_tunnelctl, passphrase, tmp_path):
    file, wrong, short = tmp_path / "b", tmp_path / "wrong", tmp_path / "short"
    local_tunnelctl("backup", str(file), *passphrase)
    wrong.write_text("another passphrase")
    short.write_text("short")
    refused = [
        ((str(file), "--passphrase-file", str(wrong)), 1, "passphrase is another"),
        ((str(wrong),), 1, "no backup of a tunnel server"),
        ((str(tmp_path / "nowhere"),), 1, "No such file"),
        ((str(file), "--passphrase-file", str(tmp_path / "nowhere")), 2, "No such file"),
    ]
    for words, code, why in refused:
        assert why in local_tunnelctl("restore", *words, state="other", code=code)
        assert not (tmp_path / "other").exists()
    again = ("backup", str(tmp_path / "c"), "--passphrase-file", str(short))
    assert "at least 12" in local_tunnelctl(*again, code=2)


def test_json(local_tunnelctl, passphrase, tmp_path):
    local_tunnelctl("backup", str(tmp_path / "b"), *passphrase)
    report = json.loads(local_tunnelctl("restore", str(tmp_path / "b"), *passphrase, "--json", state="other"))
    assert report["state_dir"] == str(tmp_path / "other")
    assert report["created"].endswith("Z")
    assert "ca.key" in report["files"]


def test_the_authority_alone(local_tunnelctl, passphrase, tmp_path):
    file = str(tmp_path / "b")
    local_tunnelctl("backup", file, *passphrase)
    assert "nothing was changed" in local_tunnelctl("restore", file, *passphrase, "--authority", code=4)
    for name in ("ca.crt", "ca.key"):
        (tmp_path / "state" / name).unlink()
    assert "restore --authority" in local_tunnelctl("init", code=1)
    assert local_tunnelctl("restore", file, *passphrase, "--authority").startswith("put the authority of ")
    assert "nothing was changed" in local_tunnelctl("init")
    code = local_tunnelctl("restore", file, *passphrase, "--authority", state="other", code=1)
    assert "does not exist" in code
