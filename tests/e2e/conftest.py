"""The deployments that the end-to-end tests look at: one to leave as it is, fresh ones to break."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.e2e.hostile import HANDSHAKE, Besieged
from tests.e2e.system import System, missing
from tunnelctl.demo.processes import Processes
from tunnelctl.demo.topology import Topology

_HERE = Path(__file__).parent
_PROGRAMS = ("ip", "nft", "curl", "openssl", "ssh", "/usr/sbin/sshd")
_SECONDS = 240


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They need root and real programs, and some need longer than a minute."""
    lacking = missing(*_PROGRAMS)
    for item in items:
        if _HERE not in item.path.parents:
            continue
        if os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="end-to-end tests make network namespaces: needs root"))
        elif lacking:
            item.add_marker(pytest.mark.skip(reason=f"end-to-end tests need {', '.join(lacking)}"))
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_SECONDS))


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str, float], None]:
    """Notes what a test measured; the run ends with the list."""
    return lambda what, value: record_property("figure", f"{value:.1f} {what}")


@contextmanager
def _deployment(directory: Path, prefix: str, **topology: Any) -> Iterator[System]:
    public = MappingProxyType({"cloud": "203.0.113.10", "other": "203.0.113.20"})
    (logs := directory / "logs").mkdir()
    with (
        Topology(prefix, **{"public": public, **topology}) as network,
        Processes(logs, grace=30) as processes,
    ):
        yield System(network, directory, processes)


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A server, two edges joined and connected, an HTTP service on each, 9081 mapped. Leave it as it is."""
    with _deployment(tmp_path_factory.mktemp("system"), f"et-e2e{os.getpid()}") as made:
        made.init()
        made.start_server()
        for number in (1, 2):
            made.serve(made.topology.edge(number), "http", 9081)
            made.add_edge(made.topology.edge(number))
        made.map_port("9081=10264")
        yield made


@pytest.fixture(scope="session")
def besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    """What the hostile attack: edge-1 works; edge-2 has joined, and its certificate is the attacker's.

    The caller `prom` may call edge-1's 9081, and have the server dial for it.
    """
    with _deployment(tmp_path_factory.mktemp("besieged"), f"et-siege{os.getpid()}") as made:
        made.init()
        made.ctl("caller", "create", "prom", "--state-dir", made.state, "--out", made.directory / "prom")
        made.start_server(
            **{
                "limits.handshake-timeout": HANDSHAKE,
                "http-proxy-ports": "9081",
                "connect-socket": made.directory / "connect.sock",
                "callers.prom.nodes": ["edge-1"],
                "callers.prom.ports": ["9081"],
                "callers.prom.direct": True,
            }
        )
        one, two = made.topology.edge(1), made.topology.edge(2)
        made.serve(one, "http", 9081)
        made.add_edge(one)
        joined = made.join(two, made.join_line(two.name, two.address))
        assert joined.returncode == 0, joined.stderr
        yield Besieged(made)


@pytest.fixture
def deploy(tmp_path: Path) -> Iterator[Callable[..., System]]:
    """Makes a deployment of the test's own, initialised; nothing runs in it yet."""
    with ExitStack() as stack:
        yield _maker(stack, tmp_path, "own")


@pytest.fixture(scope="module")
def deploy_for_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., System]]:
    """The same for a module's tests together."""
    with ExitStack() as stack:
        yield _maker(stack, tmp_path_factory.mktemp("module"), "mod")


def _maker(stack: ExitStack, directory: Path, kind: str) -> Callable[..., System]:
    def make(**topology: Any) -> System:
        made = stack.enter_context(_deployment(directory, f"et-{kind}{os.getpid()}", **topology))
        made.init()
        return made

    return make
