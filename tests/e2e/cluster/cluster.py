"""A whole cluster: a control plane on a public host, nodes in factories behind NAT, and what a tunnel is for.

cloud 203.0.113.10 -- internet --- nat-1 | edge-1 192.168.1.7
                               --- nat-2 | edge-2 192.168.1.7     the same address in another factory
                               --- nat-3 | edge-3 192.168.3.9
"""

import contextlib
import itertools
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Self, TypeVar

from tests.e2e.cluster import control_groups, images
from tests.e2e.cluster.certificates import kubeconfig
from tests.e2e.cluster.control_plane import ControlPlane
from tests.e2e.cluster.node import Node
from tests.e2e.cluster.objects import app
from tunnelctl.demo import topology
from tunnelctl.demo.processes import Processes
from tunnelctl.demo.topology import Site, Topology

T = TypeVar("T")
EDGE = MappingProxyType({"openyurt.io/is-edge-worker": "true"})
_CLOUD = MappingProxyType({"openyurt.io/is-edge-worker": "false", "cloud": "true"})
_CONTROLLERS = ("kube-controller-manager", "kube-scheduler")
_PREFIX = "et-cluster"
_count = itertools.count(1)
_SITES = (
    Site("nat-1", "203.0.113.11", {"edge-1": "192.168.1.7"}),
    Site("nat-2", "203.0.113.12", {"edge-2": "192.168.1.7"}),
    Site("nat-3", "203.0.113.13", {"edge-3": "192.168.3.9"}),
)
_PUBLIC = MappingProxyType({"cloud": "203.0.113.10"})


class Cluster:
    """As a context manager: the control plane runs within, nodes when they are added, and nothing is left."""

    def __init__(self, directory: Path) -> None:
        """Take `directory`, which is there and empty, for files and logs."""
        self.directory = directory
        (logs := directory / "logs").mkdir()
        prefix = f"{_PREFIX}-{os.getpid()}-{next(_count)}"  # several can stand beside each other
        self.topology = Topology(prefix, sites=_SITES, public=_PUBLIC)
        self.processes = Processes(logs)
        self.nodes: dict[str, Node] = {}
        self._stack = contextlib.ExitStack()
        self._archive = directory / "busybox.tar"

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            remove_leftovers()
            stack.enter_context(self.topology)
            stack.enter_context(self.processes)
            images.write(self._archive)
            cloud = self.topology.cloud
            enter = ["nsenter", f"--net=/run/netns/{cloud.namespace}"]
            self.control_plane = ControlPlane(
                self.directory, self.processes, address=cloud.address, enter=enter
            )
            stack.callback(self.control_plane.close)
            self.control_plane.start()
            stack.callback(self._remove_nodes)
            self._start_controllers()
            self.add("cloud", labels=_CLOUD)
            self.kubectl("label", "node", "cloud", "node-role.kubernetes.io/control-plane=")
            self._start_proxy()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    # nodes

    def add(self, *names: str, labels: Mapping[str, str] = EDGE) -> None:
        """Start the nodes of these names, as in `topology`; return when each is Ready."""
        for name in names:
            pods = f"10.244.{len(self.nodes)}.0/24"
            node = Node(self.topology.host(name), self.control_plane, self.processes, self._archive, pods)
            self.nodes[name] = node
            node.boot()
        for name in names:
            self.nodes[name].join(labels)
        self.kubectl("wait", "--for=condition=Ready", "--timeout=40s", *(f"node/{name}" for name in names))

    def remove(self, name: str) -> None:
        """Pull a node's plug, and delete its Node object."""
        self.nodes.pop(name).stop()
        self.kubectl("delete", "node", name)

    def cut(self, name: str) -> None:
        """Pull the cable between an edge's factory and the internet."""
        self.topology.cut(_router(name))

    def heal(self, name: str) -> None:
        """Put the cable back."""
        self.topology.heal(_router(name))

    def _remove_nodes(self) -> None:
        with contextlib.ExitStack() as stack:
            for node in self.nodes.values():
                stack.callback(node.stop)
            self.nodes.clear()

    # pods

    def run(self, *edges: str) -> None:
        """Have `app-EDGE` on each: container `main` counts to its log and has a web page, `echo` echoes."""
        # No pod is made without, and a controller makes it a moment after the namespace.
        account = ("get", "serviceaccount", "default", "-n", "default")
        self.until(lambda: self.control_plane.try_kubectl(*account).returncode == 0)
        self.control_plane.apply(*(app(edge) for edge in edges))
        self.kubectl("wait", "--for=condition=Ready", "--timeout=40s", *(f"pod/app-{edge}" for edge in edges))

    # the control plane

    def kubectl(self, *words: str, seconds: float = 60) -> str:
        """What the administrator's kubectl on the cloud host writes to standard output; it must succeed."""
        return self.control_plane.kubectl(*words, timeout=seconds)

    def start_api(self) -> None:
        """Start a kube-apiserver that was stopped, and anew what watches it.

        By themselves controllers and kubelets try again as late as a minute after it is back.
        """
        self.control_plane.start_api()
        for name in (*_CONTROLLERS, "kube-proxy"):
            self.processes.end(name, signum=signal.SIGKILL)
        self._start_controllers()
        self._start_proxy()
        for node in self.nodes.values():
            node.restart_kubelet()

    def _start_controllers(self) -> None:
        plane = self.control_plane
        for name in _CONTROLLERS:
            words = [
                f"--kubeconfig={self._kubeconfig(name)}",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
            ]
            if name == "kube-controller-manager":
                words += ["--use-service-account-credentials", f"--root-ca-file={plane.authority.ca}"]
                words += [f"--service-account-private-key-file={plane.signing_key}"]
                words += [f"--cluster-signing-cert-file={plane.authority.pair.certificate}"]
                words += [f"--cluster-signing-key-file={plane.authority.pair.key}"]
            plane.start_program(name, *words)

    def _start_proxy(self) -> None:
        """ClusterIPs, for the cloud host and its pods. An edge's kube-proxy would have nothing to lead to."""
        words = [f"--kubeconfig={self._kubeconfig('kube-proxy')}", "--hostname-override=cloud"]
        words += ["--proxy-mode=nftables", "--cluster-cidr=10.244.0.0/16", "--metrics-bind-address=127.0.0.1"]
        # Settings of the whole computer, which it may not change.
        words += ["--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0"]
        words += ["--conntrack-tcp-timeout-close-wait=0"]
        self.control_plane.start_program("kube-proxy", *words)

    def _kubeconfig(self, program: str) -> Path:
        plane = self.control_plane
        pair = plane.authority.issue(program, f"system:{program}")
        return kubeconfig(
            self.directory / f"{program}.kubeconfig", plane.server, plane.authority.ca, pair=pair
        )

    def until(self, condition: Callable[[], T], *logs: str, timeout: float = 30) -> T:
        """What `condition` returns, once that is true; fails with the tails of the logs."""
        deadline = time.monotonic() + timeout
        while not (result := condition()):
            tails = "\n".join(f"--- {name}:\n{self.processes.tail(name, 20)}" for name in logs)
            assert time.monotonic() < deadline, f"not within {timeout} s\n{tails}"
            time.sleep(0.1)
        return result


def remove_leftovers() -> None:
    """Remove the namespaces and control groups of runs that were killed: the kernel ended their processes."""
    groups = control_groups.existing(_PREFIX)
    for name in {*topology.existing(_PREFIX), *(group.name for group in groups)}:
        owner = re.match(rf"{_PREFIX}-(\d+)-", name)
        if owner and not Path("/proc", owner[1]).exists():
            topology.remove(owner[0].removesuffix("-"))
            for group in groups:
                if group.name.startswith(owner[0]):
                    control_groups.remove(group)


def _router(edge: str) -> str:
    return next(site.router for site in _SITES if edge in site.edges)
