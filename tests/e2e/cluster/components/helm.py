"""Helm, which renders our chart: built when it is not in the cache, beside the programs of Kubernetes."""

import tempfile
from pathlib import Path

from tests.e2e.cluster.components import cache, go
from tests.e2e.cluster.components.cache import Say

HELM = "3.19.5"
"""The last minor release that the Go of `go.NEEDED` builds."""

_COMMAND = "helm.sh/helm/v3/cmd/helm"
_NAME = f"helm-{HELM}"


def place() -> Path:
    """The program, there or not."""
    return cache.place(_NAME) / "helm"


def make(say: Say) -> Path:
    """Build it if it is not there yet; return it. Raises go.BuildError."""
    cache.make(_NAME, lambda directory: _build(directory, say))
    return place()


def _build(directory: Path, say: Say) -> None:
    say(f"helm: {HELM} is built, once (a minute or two with empty caches)")
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary)
        # A module of ours that wants nothing but Helm gets exactly the versions that Helm was released with.
        go.run(source, "mod", "init", "cluster-helm")
        go.run(source, "get", f"{_COMMAND}@v{HELM}")
        program = str(directory / "helm")
        go.build(source, "-ldflags", "-s -w", "-o", program, _COMMAND, compiled=lambda _package: None)
