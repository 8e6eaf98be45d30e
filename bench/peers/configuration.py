"""What the peers' configurations are made of."""

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


def with_port(address: tuple[str, int]) -> str:
    """Host and port as most programs read them: an IPv6 address is in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
