"""The tunnel as it is shipped: Helm installs the chart with our image, and both ends run as pods."""

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deploy import render
from tests.e2e.cluster import tunnel_image
from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.components.released import HELM
from tests.e2e.system import BIN
from tunnelctl.admin_client import ask
from tunnelctl.errors import CommandError

NAMESPACE = "edge-tunnel"
SERVER, AGENTS = "deployment/tunnel-server", "daemonset/tunnel-agent"
RUN = "/run/edge-tunnel"
"""The directory of the server's sockets, on its host."""
_STATE = "/var/lib/edge-tunnel-agent"
_OURS = ("-n", NAMESPACE)
_SECONDS = 120


class Shipped:
    """One installation for all modules: each says which values of the chart it wants."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        """Nothing is installed yet; `directory` is for the files of values."""
        self.cluster = cluster
        self._directory = directory
        self._values: tuple[str, ...] | None = None
        self._loaded = False

    def install(self, *values: str) -> None:
        """Have it run with these values, each a YAML as the pages show it; return when every edge is linked.

        As `helm upgrade` does it: what is there and stays the same goes on.
        """
        if self._values != values:
            self._load()
            files = []
            for number, text in enumerate(values):
                (path := self._directory / f"values-{number}.yaml").write_text(text)
                files += ["--values", str(path)]
            if self._values is None:
                self.cluster.kubectl("create", "namespace", NAMESPACE)
                level = "pod-security.kubernetes.io/enforce=privileged"
                self.cluster.kubectl("label", "namespace", NAMESPACE, level)
            where = f"serverAddresses={{{self.cluster.topology.cloud.address}:10262}}"
            options = ["--set", where, "--set", "edgeNetworks={192.168.0.0/16}", *files]
            self._helm("upgrade", "--install", "edge-tunnel", str(render.CHART), *options)
            self._values = values
            # A kubelet brings a changed ConfigMap within a minute or two, and at once to a pod that changes.
            self.hurry()
        self.wait()

    def hurry(self) -> None:
        """Have the kubelets bring what has changed in the ConfigMaps now."""
        now = self.cluster.kubectl("get", "--raw", "/version?now")
        stamp = f"looked={abs(hash((now, self._values)))}"
        self.cluster.kubectl(*_OURS, "annotate", "--overwrite", "pods", "--all", stamp)

    def uninstall(self) -> None:
        """Leave nothing of it behind, also on the nodes."""
        if self._values is not None:
            self._helm("uninstall", "edge-tunnel", "--wait")
            self.cluster.kubectl("delete", "namespace", NAMESPACE)
            for node in self.cluster.nodes.values():
                node.try_(["rm", "-rf", _STATE, RUN])
            self._values = None

    def wait(self) -> None:
        """Until both ends are ready, and every edge is linked."""
        for each in (SERVER, AGENTS):
            words = ["rollout", "status", each, f"--timeout={_SECONDS}s"]
            self.cluster.kubectl(*_OURS, *words, seconds=_SECONDS + 10)
        edges = {name for name in self.cluster.nodes if name.startswith("edge-")}
        self.cluster.until(lambda: self.connected() == edges, timeout=60)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Without a server within."""
        self.cluster.kubectl(*_OURS, "scale", SERVER, "--replicas=0")
        try:
            pods = ["wait", "pod", "-l", "app.kubernetes.io/component=server", "--for=delete"]
            self.cluster.kubectl(*_OURS, *pods, "--timeout=40s")
            yield
        finally:
            self.cluster.kubectl(*_OURS, "scale", SERVER, "--replicas=1")
            self.wait()

    def edit(self, **settings: object) -> None:
        """Add lines to the table `[kubernetes]` of the server's file, as an editor of the ConfigMap does."""
        name = "configmap/tunnel-server-config"
        text = self.cluster.kubectl(*_OURS, "get", name, "-o", r"jsonpath={.data.server\.toml}")
        lines = [f"{key.replace('_', '-')} = {json.dumps(value)}" for key, value in settings.items()]
        text = text.replace("[kubernetes]\n", "\n".join(["[kubernetes]", *lines, ""]))
        change = json.dumps({"data": {"server.toml": text}})
        self.cluster.kubectl(*_OURS, "patch", name, "--type=merge", "-p", change)
        self._values = ("edited",)

    # what the server says

    @property
    def sockets(self) -> Path:
        """Where the server's host has the directory of its sockets, as this process sees it."""
        return self.cluster.nodes["cloud"].path(RUN)

    def ask(self, what: str) -> dict[str, Any]:
        """What the server's admin socket answers."""
        return ask(self.sockets / "admin.sock", "GET", f"/v1/{what}")

    def nodes(self) -> Mapping[str, dict[str, Any]]:
        """What it says of each node, by name; nothing while it cannot be asked."""
        try:
            return {each["name"]: each for each in self.ask("nodes")["nodes"]}
        except CommandError:
            return {}

    def connected(self) -> set[str]:
        return {name for name, node in self.nodes().items() if node["connected"]}

    def captured(self) -> set[str]:
        """The addresses that the kernel of the server's host looks for, as nft tells it."""
        told = self.cluster.topology.cloud.run(["nft", "list", "table", "inet", "edge-tunnel"]).stdout
        return set(re.findall(r"\b192\.168\.\d+\.\d+\b", told))

    # its programs

    def ctl(self, *words: str | Path) -> str:
        """`tunnelctl` of the cluster's administrator, on the server's host."""
        argv = [BIN / "tunnelctl", *words, "--kubeconfig", self.cluster.control_plane.kubeconfig]
        done = self.cluster.topology.cloud.run(argv)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _helm(self, *words: str) -> None:
        where = ["--kubeconfig", str(self.cluster.control_plane.kubeconfig), "--namespace", NAMESPACE]
        done = subprocess.run(
            self.cluster.topology.cloud.command([HELM.place(), *words, *where]),
            capture_output=True, text=True, check=False, timeout=90,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def _load(self) -> None:
        if not self._loaded:
            for node in self.cluster.nodes.values():
                node.load(tunnel_image.archive())
            self._loaded = True
