"""The table [limits]: every bound is bounded itself, and most can change while the server runs."""

from pathlib import Path

import pytest

from tunnel_daemon.settings import SettingsError, declared, fields_by_key
from tunnel_server.config import load_config
from tunnel_server.limits import ServerLimits


@pytest.mark.parametrize("key", list(fields_by_key(ServerLimits)))
def test_nothing_is_unbounded(tmp_path: Path, key: str) -> None:
    path = tmp_path / "server.toml"
    path.write_text(f"limits.{key} = -1\n")
    with pytest.raises(SettingsError, match=f"limits.{key}: expected"):
        load_config(path)


def test_which_need_a_restart() -> None:
    fixed = {key for key, field in fields_by_key(ServerLimits).items() if not declared(field).live}
    assert fixed == {
        "handshakes-in-flight",
        "handshake-timeout",
        "streams-per-session",
        "resume-grace",
        "resume-grace-pooled",
    }
