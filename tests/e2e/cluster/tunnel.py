"""The tunnel in standalone mode, on the hosts of a cluster: what it needs no cluster for."""

import contextlib
from collections.abc import Iterator

from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.control_plane import SERVICES
from tests.e2e.system import System

PODS = "10.244.0.0/16"


@contextlib.contextmanager
def standalone(cluster: Cluster) -> Iterator[System]:
    """The server on the cloud host, an agent on each edge that is up; every way in is open."""
    cloud = cluster.topology.cloud.address
    directory = cluster.directory / "tunnel"
    directory.mkdir(exist_ok=True)
    made = System(cluster.topology, directory, cluster.processes)
    edges = [name for name in cluster.nodes if name.startswith("edge-")]
    if first := not made.state.exists():
        made.init()
        made.ctl("caller", "create", "kube", "--state-dir", made.state, "--out", directory / "kube")
    everything = {
        "nodes": ["*"],
        "ports": ["*"],
        "direct": True,
        "direct-special": [SERVICES, PODS, f"{cloud}/32"],
    }
    settings = {
        f"callers.{who}.{key}": value for who in ("local", "kube") for key, value in everything.items()
    }
    try:
        made.start_server(**settings, **{"direct-address": [cloud], "direct-networks": [f"{cloud}/32"]})
        for name in edges if first else ():
            edge = cluster.topology.host(name)
            joined = made.join(edge, made.join_line(name, edge.address))
            assert joined.returncode == 0, joined.stderr
        for name in edges:
            made.start_agent(cluster.topology.host(name))
        made.until(lambda: made.connected() == set(edges), "server")
        yield made
    finally:
        for name in [*edges, "server"]:
            if name in cluster.processes.names():
                cluster.processes.end(name)
