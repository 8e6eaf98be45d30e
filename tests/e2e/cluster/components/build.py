"""The programs of Kubernetes, one binary that is called by their names."""

import hashlib
import tempfile
import time
from pathlib import Path

from tests.e2e.cluster.components import cache, go, module
from tests.e2e.cluster.components.cache import Say

PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
)
_TAGS = "-tags=notest,grpcnotrace"
_VERSION = "k8s.io/component-base/version"  # the package that says it
_RECIPE = ("main.go", "module.py")


def place() -> Path:
    """The folder of what this checkout's recipe builds, there or not."""
    return cache.place(_name())


def make(say: Say) -> Path:
    """Build them if they are not there yet; return the folder. Raises go.BuildError."""
    return cache.make(_name(), lambda directory: _build(directory, say))


def _name() -> str:
    digest = hashlib.sha256(repr((PROGRAMS, _TAGS, _linking())).encode())
    for name in _RECIPE:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return f"kubernetes-{module.KUBERNETES}-{digest.hexdigest()[:12]}"


def _build(directory: Path, say: Say) -> None:
    say(f"cluster: Kubernetes {module.KUBERNETES} is built, once (6 to 10 minutes with empty caches)")
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary)
        say("cluster: fetching its sources")
        module.write(source)
        packages = len(go.run(source, "list", "-deps", _TAGS, ".").splitlines())
        say(f"cluster: compiling {packages} packages, those that Go has in its cache excepted")
        words = (_TAGS, "-ldflags", _linking(), "-o", str(directory / "kubernetes"), ".")
        go.build(source, *words, compiled=Progress(packages, say))
    for name in PROGRAMS:
        (directory / name).symlink_to("kubernetes")


def _linking() -> str:
    _, minor, _ = module.KUBERNETES.split(".")
    says = {
        "gitVersion": f"v{module.KUBERNETES}",
        "gitMajor": "1",
        "gitMinor": minor,
        "gitTreeState": "clean",
    }
    return " ".join(["-s -w", *(f"-X {_VERSION}.{key}={value}" for key, value in says.items())])


class Progress:
    """Says how far it is, now and then; told each package."""

    def __init__(self, total: int, say: Say) -> None:
        self._total, self._say = total, say
        self._done = 0
        self._began = self._said = time.monotonic()

    def __call__(self, _package: str) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._said >= 15:
            self._said = now
            self._say(f"cluster: {self._done} of at most {self._total} after {now - self._began:.0f} s")
