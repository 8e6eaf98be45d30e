"""`tunnelctl caller`, as the command line calls them: what is done, said, and refused."""

import json
import subprocess
from datetime import UTC, datetime, timedelta

import pytest


def test_a_caller_from_its_making_to_its_end(local_tunnelctl, tmp_path):
    out = tmp_path / "ci"
    local_tunnelctl("caller", "create", "ci", "--ttl", "2d", "--out", str(out))
    assert sorted(each.name for each in out.iterdir()) == ["ca.crt", "caller.crt", "caller.key"]
    assert (out / "caller.key").stat().st_mode & 0o777 == 0o600
    done = subprocess.run(
        ["openssl", "verify", "-purpose", "sslclient", "-CAfile", out / "ca.crt", out / "caller.crt"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first = (out / "caller.crt").read_bytes()
    assert "exists" in local_tunnelctl("caller", "create", "ci", "--out", str(out), code=4)
    elsewhere = tmp_path / "elsewhere"
    assert "a caller ci already" in local_tunnelctl("caller", "create", "ci", "--out", str(elsewhere), code=4)
    assert not elsewhere.exists()
    assert (out / "caller.crt").read_bytes() == first
    local_tunnelctl("revoke", "--caller", "ci")
    assert json.loads(local_tunnelctl("caller", "list", "--json"))[0]["state"] == "revoked"
    local_tunnelctl("caller", "create", "ci", "--out", str(out), "--renew")
    assert (out / "caller.crt").read_bytes() != first
    (listed,) = json.loads(local_tunnelctl("caller", "list", "--json"))
    assert listed["state"] == "valid"
    assert listed["expires"].endswith("Z")
    left = datetime.fromisoformat(listed["expires"]) - datetime.now(UTC)
    assert timedelta(days=364) < left < timedelta(days=366)
    assert "ci" in local_tunnelctl("caller", "list")


@pytest.mark.parametrize(
    "words", [("local",), ("Bad Name",), ("ci", "--ttl", "soon"), ("ci", "--ttl", "9999d")]
)
def test_callers_that_cannot_be(local_tunnelctl, tmp_path, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    local_tunnelctl("caller", "create", *words, code=2)
    assert local_tunnelctl("caller", "list").startswith("no caller has a certificate yet")
    assert not (tmp_path / "ci").exists()
