"""What the peers' configurations are made of."""

import sys
from pathlib import Path

from bench.peers.peer import Stage

# For programs in Rust: no lines for each caller, and a failure is its message, not a page of frames.
QUIET_RUST = {"RUST_LOG": "warn", "RUST_BACKTRACE": "0"}


def write(stage: Stage, name: str, text: str) -> Path:
    """A file in the stage's folder, readable by its owner alone: some hold keys."""
    path = stage.scratch / name
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def connect_entrance(entrance: tuple[str, int], socket: Path, target: str) -> list[str | Path]:
    """The command that stands in front of a proxy on a Unix socket, which has to be asked with a CONNECT."""
    # -P: the standard library has to be found, not a file beside it that has the name of one of its modules.
    script = Path(__file__).with_name("connect_entrance.py")
    return [sys.executable, "-P", script, with_port(entrance), socket, target]


def with_port(address: tuple[str, int]) -> str:
    """Host and port as most programs read them: an IPv6 address is in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
