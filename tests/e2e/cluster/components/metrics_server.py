"""metrics-server, which `kubectl top` asks: built as it was released."""

import tempfile
from pathlib import Path

from tests.e2e.cluster.components import build, cache, go
from tests.e2e.cluster.components.cache import Say

METRICS_SERVER = "0.7.2"
"""The last release that the Go of `go.NEEDED` builds."""

_COMMAND = "sigs.k8s.io/metrics-server/cmd/metrics-server"
_NAME = f"metrics-server-{METRICS_SERVER}"


def place() -> Path:
    """The program, there or not. It is static: a container needs nothing beside it."""
    return cache.place(_NAME) / "metrics-server"


def make(say: Say) -> Path:
    """Build it if it is not there yet; return it. Raises go.BuildError."""
    cache.make(_NAME, lambda directory: _build(directory, say))
    return place()


def _build(directory: Path, say: Say) -> None:
    say(f"cluster: metrics-server {METRICS_SERVER} is built, once (2 or 3 minutes with empty caches)")
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary)
        # A module that wants nothing else gets exactly the versions that it was released with.
        go.run(source, "mod", "init", "cluster-metrics-server")
        go.run(source, "get", f"{_COMMAND}@v{METRICS_SERVER}")
        packages = len(go.run(source, "list", "-deps", _COMMAND).splitlines())
        words = ("-ldflags", "-s -w", "-o", str(directory / "metrics-server"), _COMMAND)
        go.build(source, *words, compiled=build.Progress(packages, say))
