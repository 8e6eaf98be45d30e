"""Go programs that tests run beside Kubernetes, or without it, built as they were released; once."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.cluster.components import build, cache, go
from tests.e2e.cluster.components.cache import Say


@dataclass(frozen=True)
class Released:
    """One program: the last release of it that the Go of `go.NEEDED` builds."""

    name: str
    version: str
    command: str
    """The package that it is built from."""
    takes: str
    """How long, with empty caches."""
    main: str = ""
    """A file beside this one that is its main package, where `command` is only what that imports."""
    modules: tuple[str, ...] = ()
    """What it imports, MODULE@VERSION, where it was released without saying so: else Go takes the newest."""

    def place(self) -> Path:
        """The program, there or not. It is static: a container needs nothing beside it."""
        return cache.place(f"{self.name}-{self.version}") / self.name

    def make(self, say: Say) -> Path:
        """Build it if it is not there yet; return it. Raises go.BuildError."""
        cache.make(f"{self.name}-{self.version}", lambda directory: self._build(directory, say))
        return self.place()

    def _build(self, directory: Path, say: Say) -> None:
        say(f"cluster: {self.name} {self.version} is built, once ({self.takes} with empty caches)")
        with tempfile.TemporaryDirectory() as temporary:
            source = Path(temporary)
            # A module that wants nothing else gets exactly the versions that it was released with.
            go.run(source, "mod", "init", f"cluster-{self.name}")
            go.run(source, "get", f"{self.command}@v{self.version}", *self.modules)
            if self.main:
                shutil.copy(Path(__file__).with_name(self.main), source / "main.go")
            what = "." if self.main else self.command
            packages = len(go.run(source, "list", "-mod=mod", "-deps", what).splitlines())
            words = ("-ldflags", "-s -w", "-o", str(directory / self.name), what)
            go.build(source, *words, compiled=build.Progress(packages, say))


HELM = Released("helm", "3.19.5", "helm.sh/helm/v3/cmd/helm", "a minute or two")
"""Renders our chart."""
METRICS_SERVER = Released(
    "metrics-server", "0.7.2", "sigs.k8s.io/metrics-server/cmd/metrics-server", "2 or 3 minutes"
)
"""What `kubectl top` asks."""
COREDNS = Released(
    "coredns", "1.12.0", "github.com/coredns/coredns/coremain", "a minute or two", main="coredns.go"
)
"""By which kube-apiserver finds edges by name; as kubeadm of this Kubernetes installs it."""
