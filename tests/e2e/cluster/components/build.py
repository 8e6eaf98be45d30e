"""The programs of Kubernetes, in a cache outside of the checkout: built when their recipe is another."""

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e.cluster.components import go, module

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

Say = Callable[[str], None]


def place() -> Path:
    """The folder of what this checkout's recipe builds, there or not."""
    digest = hashlib.sha256(repr((PROGRAMS, _TAGS, _linking())).encode())
    for name in _RECIPE:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return _cache() / f"kubernetes-{module.KUBERNETES}-{digest.hexdigest()[:12]}"


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "edge-tunnel", "cluster")


def make(say: Say) -> Path:
    """Build it if it is not there yet; return the folder. Raises go.BuildError, and then nothing is left."""
    wanted = place()
    if wanted.exists():
        return wanted
    wanted.parent.mkdir(parents=True, exist_ok=True)
    with (wanted.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wanted.exists():  # nobody built it while we waited
            for left in wanted.parent.glob("building-kubernetes-*"):  # by one that was killed
                shutil.rmtree(left)
            with tempfile.TemporaryDirectory(dir=wanted.parent, prefix="building-kubernetes-") as temporary:
                _build(Path(temporary), say)
                os.rename(Path(temporary, "bin"), wanted)  # noqa: PTH104  complete, or not there
    return wanted


def _build(directory: Path, say: Say) -> None:
    say(f"cluster: Kubernetes {module.KUBERNETES} is built, once (6 to 10 minutes with empty caches)")
    (source := directory / "source").mkdir()
    say("cluster: fetching its sources")
    module.write(source)
    packages = len(go.run(source, "list", "-deps", _TAGS, ".").splitlines())
    say(f"cluster: compiling {packages} packages, those that Go has in its cache excepted")
    go.build(
        source, _TAGS, "-ldflags", _linking(), "-o", str(directory / "bin" / "kubernetes"), ".",
        compiled=_Progress(packages, say),
    )  # fmt: skip
    for name in PROGRAMS:
        (directory / "bin" / name).symlink_to("kubernetes")


def _linking() -> str:
    _, minor, _ = module.KUBERNETES.split(".")
    says = {
        "gitVersion": f"v{module.KUBERNETES}",
        "gitMajor": "1",
        "gitMinor": minor,
        "gitTreeState": "clean",
    }
    return " ".join(["-s -w", *(f"-X {_VERSION}.{key}={value}" for key, value in says.items())])


class _Progress:
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
