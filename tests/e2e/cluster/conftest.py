"""Real clusters for tests. README.md beside this says how to use them."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.components import build
from tests.e2e.cluster.control_plane import ControlPlane
from tests.e2e.cluster.shipped import Shipped
from tests.e2e.system import missing
from tunnelctl.demo.processes import Processes

_HERE = Path(__file__).parent
_PROGRAMS = ("etcd", "containerd", "runc", "/bin/busybox", "/usr/lib/cni/bridge", "iptables")
_count = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They need what `make cluster` builds, and etcd. Those of an installation come first: the longest."""
    items.sort(key=_turn)
    reason = None
    if lacking := missing(*_PROGRAMS):
        reason = f"a real control plane needs {', '.join(lacking)}"
    elif not build.place().exists():
        reason = "Kubernetes is not built: make cluster"
    for item in items:
        if reason and _HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


def _turn(item: pytest.Item) -> int:
    names = getattr(item, "fixturenames", ())
    if "installation" not in names:
        return 2
    return 1 if "installed" in names else 0  # who has none before whom has one


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """A file's tests are one worker's, and so are all that share the installation, which is made once."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        text = (self.config.rootpath / file).read_text()
        return "installation" if "installation: Shipped" in text else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Scheduling:
    """Of the marks for this, which xdist has (`--dist loadgroup`), it sees none with this pytest."""
    return _Scheduling(config, log)


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A Kubernetes API on loopback, without controllers and nodes: for all tests, each in its namespace."""
    with ExitStack() as stack:
        yield _control_plane(stack, tmp_path_factory.mktemp("apiserver"))


@pytest.fixture
def own_apiserver(tmp_path: Path) -> Iterator[ControlPlane]:
    """One to break: nobody else uses it. It takes three seconds."""
    with ExitStack() as stack:
        yield _control_plane(stack, tmp_path)


@pytest.fixture
def namespace(apiserver: ControlPlane) -> str:
    """The name of a new namespace in `apiserver`."""
    return apiserver.namespace(f"test-{next(_count)}")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A whole cluster, and `app-EDGE` on each of its three edges. Leave it as it is."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as made:
        made.add("edge-1", "edge-2", "edge-3")
        made.run("edge-1", "edge-2", "edge-3")
        yield made


@pytest.fixture(scope="session")
def installation(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """The tunnel of `cluster`. Each module installs it with the values that it wants, or uninstalls it."""
    return Shipped(cluster, tmp_path_factory.mktemp("values"))


def _control_plane(stack: ExitStack, directory: Path) -> ControlPlane:
    (logs := directory / "logs").mkdir()
    made = ControlPlane(directory, stack.enter_context(Processes(logs)))
    stack.callback(made.close)
    made.start()
    return made
