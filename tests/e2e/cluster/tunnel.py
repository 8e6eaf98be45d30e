"""The tunnel in standalone mode, on the hosts of a cluster: what it needs no cluster for."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
        made.start_server(
            **settings,
            **{"direct-address": [cloud], "direct-networks": [f"{cloud}/32"]},
            **{"prerouting-address": [cloud], "caller-networks": [PODS]},
        )
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


def egress_selector(tunnel: System, transport: str) -> Path:
    """The file by which kube-apiserver sends `cluster` by CONNECT, over "unix-socket" or "mutual-tls"."""
    words: dict[str, Any] = {"uds": {"udsName": str(tunnel.directory / "connect.sock")}}
    if transport == "mutual-tls":
        files = {"caBundle": "ca.crt", "clientCert": "caller.crt", "clientKey": "caller.key"}
        tls = {key: str(tunnel.directory / "kube" / name) for key, name in files.items()}
        words = {"tcp": {"url": f"https://{tunnel.topology.cloud.address}:10262", "tlsConfig": tls}}
    connection = {"proxyProtocol": "HTTPConnect", "transport": words}
    config = {
        "apiVersion": "apiserver.k8s.io/v1beta1",
        "kind": "EgressSelectorConfiguration",
        "egressSelections": [{"name": "cluster", "connection": connection}],
    }
    (path := tunnel.directory / f"egress-{transport}.yaml").write_text(json.dumps(config))
    return path
