"""A control group for a node in every hierarchy there is (version 1), or in the one (version 2)."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS = "+cpuset +cpu +io +memory +pids"


def is_unified() -> bool:
    """Whether this machine has version 2 alone."""
    return (_ROOT / "cgroup.controllers").exists()


@contextlib.contextmanager
def control_group(name: str) -> Iterator[None]:
    """Make it; on leaving, remove it with all that was made in it, whose processes must have been killed."""
    made = []
    try:
        for hierarchy in _hierarchies():
            made.append(group := hierarchy / name)
            group.mkdir()
            if is_unified():
                (hierarchy / "cgroup.subtree_control").write_text(_CONTROLLERS)
            elif (group / "cpuset.cpus").exists():  # empty at first, and then nothing can run in it
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (group / file).write_text((hierarchy / file).read_text())
        yield
    finally:
        for group in made:
            remove(group)


def existing(prefix: str) -> list[Path]:
    """Those at the top whose names start with `prefix`, whoever made them."""
    return [group for hierarchy in _hierarchies() for group in hierarchy.glob(f"{prefix}*")]


def remove(group: Path) -> None:
    """Remove a group and those below it. Raises OSError if one is still in use after ten seconds."""
    deadline = time.monotonic() + 10
    while True:
        try:
            for folder, _, _ in os.walk(group, topdown=False):
                Path(folder).rmdir()
        except FileNotFoundError:
            continue  # the kubelet removed it first
        except OSError:  # its processes are still on their way out
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _hierarchies() -> list[Path]:
    if is_unified():
        return [_ROOT]
    return [path for path in _ROOT.iterdir() if path.is_dir() and (path / "cgroup.procs").exists()]
