"""Where one demo keeps its things: a directory and a namespace prefix of its own, held by a lock.

The lock ends with the process, however that ends; so what stands without one was left behind by a killed
demo, and the next demo takes it over and clears it away.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Stage:
    """What belongs to this demo alone."""

    prefix: str
    """Of the network namespaces."""
    base: Path

    @property
    def directory(self) -> Path:
        """Gone when the demo is."""
        return self.base / self.prefix

    def make(self, name: str) -> Path:
        """A new private directory in it."""
        path = self.directory / name
        path.mkdir(mode=0o700)
        return path


@contextlib.contextmanager
def claim(base: Path | None = None) -> Iterator[Stage]:
    """Hold the first stage that no running demo holds, emptied of what a killed one left; remove it at last.

    `base` is where the stages stand: by default /run for root, else the user's folder for temporary files.
    Raises OSError.
    """
    base = base or _base()
    for number in range(1, 1000):
        stage = Stage("et-demo" if number == 1 else f"et-demo{number}", base)
        base.mkdir(mode=0o700, exist_ok=True)
        if base.stat().st_uid != os.geteuid():
            raise PermissionError(f"{base} belongs to somebody else: remove it, or set TMPDIR")
        with _locked(base / f"{stage.prefix}.lock") as held:
            if not held:
                continue
            shutil.rmtree(stage.directory, ignore_errors=True)
            stage.directory.mkdir(mode=0o700)
            try:
                yield stage
            finally:
                shutil.rmtree(stage.directory, ignore_errors=True)
                (base / f"{stage.prefix}.lock").unlink()
                with contextlib.suppress(OSError):  # another demo is there still
                    base.rmdir()
        return
    raise OSError(f"{base}: a thousand demos are running")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether we hold the lock `path`, which we may remove then."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder may have removed it between our open and our lock.
            held = path.exists() and os.path.samestat(path.stat(), os.fstat(lock.fileno()))
        except BlockingIOError:
            held = False
        yield held


def _base() -> Path:
    if os.geteuid() == 0:
        return Path("/run/edge-tunnel-demo")
    return Path(tempfile.gettempdir(), f"edge-tunnel-demo-{os.geteuid()}")
