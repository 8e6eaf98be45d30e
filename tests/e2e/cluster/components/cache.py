"""What is built, in folders outside of the checkout: each complete, or not there."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

Say = Callable[[str], None]


def place(name: str) -> Path:
    """The folder of that name, there or not. The name says of which version and recipe it is."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "edge-tunnel", "cluster", name)


def make(name: str, build: Callable[[Path], None]) -> Path:
    """Return the folder; if it is not there yet, `build` fills it. What that raises leaves nothing behind."""
    wanted = place(name)
    if wanted.exists():
        return wanted
    wanted.parent.mkdir(parents=True, exist_ok=True)
    with (wanted.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wanted.exists():  # nobody built it while we waited
            prefix = f"building-{name}-"
            for left in wanted.parent.glob(f"{prefix}*"):  # by one that was killed
                shutil.rmtree(left)
            with tempfile.TemporaryDirectory(dir=wanted.parent, prefix=prefix) as temporary:
                (made := Path(temporary, "made")).mkdir()
                build(made)
                os.rename(made, wanted)  # noqa: PTH104
    return wanted


def forget(pattern: str, kept: int) -> None:
    """Remove the oldest folders whose names match, but for as many as are to be `kept`."""
    found = [each for each in place("").glob(pattern) if each.is_dir()]
    for each in sorted(found, key=lambda folder: folder.stat().st_mtime)[:-kept]:
        shutil.rmtree(each, ignore_errors=True)  # somebody else may be at it
