"""Helm, which renders our chart: built when it is not in the cache, beside the programs of Kubernetes."""

import fcntl
import os
import tempfile
from pathlib import Path

from tests.e2e.cluster.components import build, go

HELM = "3.19.5"
"""The last minor release that the Go of `go.NEEDED` builds."""

_COMMAND = "helm.sh/helm/v3/cmd/helm"


def place() -> Path:
    """The program, there or not."""
    return build.place().parent / f"helm-{HELM}" / "helm"


def make(say: build.Say) -> Path:
    """Build it unless it is there; return it. Raises go.BuildError, and then nothing is left."""
    wanted = place()
    wanted.parent.parent.mkdir(parents=True, exist_ok=True)
    with (wanted.parent.parent / "lock-helm").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wanted.exists():
            say(f"helm: {HELM} is built, once (a minute or two with empty caches)")
            with tempfile.TemporaryDirectory(dir=wanted.parent.parent, prefix="building-") as temporary:
                _build(Path(temporary))
                wanted.parent.mkdir(exist_ok=True)
                os.replace(Path(temporary, "helm"), wanted)  # noqa: PTH105  complete, or not there
    return wanted


def _build(directory: Path) -> None:
    # A module of ours that wants nothing but Helm gets exactly the versions that Helm was released with.
    go.run(directory, "mod", "init", "cluster-helm")
    go.run(directory, "get", f"{_COMMAND}@v{HELM}")
    program = str(directory / "helm")
    go.build(directory, "-ldflags", "-s -w", "-o", program, _COMMAND, compiled=lambda _package: None)
