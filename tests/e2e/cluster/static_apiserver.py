"""kube-apiserver in a static pod on the control-plane host, as kubeadm runs it, and lines that pages add."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from tests.e2e.cluster import images
from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.node import STATIC_PODS

CONFIGURATION = "/etc/kubernetes/edge-tunnel"
"""Where the pages put what it reads."""
_MANIFEST = f"{STATIC_PODS}/kube-apiserver.yaml"
_PODS = "/var/lib/kubelet/pods"
_FILES = "/files/control-plane"


class StaticApiserver:
    """Takes the place of the cluster's kube-apiserver, in whose etcd it goes on."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._node = cluster.nodes["cloud"]
        self._pod: dict[str, Any] = {}

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """It runs within, and before and after it the one that is no pod."""
        plane = self.cluster.control_plane
        copies = self._node.path(_FILES)
        shutil.copytree(plane.directory, copies, dirs_exist_ok=True, ignore=lambda _, names: _not_keys(names))
        self._node.try_(["mkdir", "-p", STATIC_PODS])
        plane.stop_api()
        try:
            yield
        finally:
            self._end()
            self.cluster.start_api()

    def configure(self, *fragments: str, **files: str) -> None:
        """Run it with these parts of its manifest, each a YAML, and these files in CONFIGURATION."""
        words = [word.replace(str(self.cluster.control_plane.directory), _FILES) for word in self._words()]
        pod = _pod(words)
        for fragment in fragments:
            _add(pod["spec"], yaml.safe_load(fragment)["spec"])
        if pod != self._pod or files:
            self._end()
            self._node.try_(["mkdir", "-p", CONFIGURATION])
            for name, text in files.items():
                self._node.path(f"{CONFIGURATION}/{name.replace('_', '.')}").write_text(text)
            self._node.path(_MANIFEST).write_text(json.dumps(pod))
            self._pod = pod
            ready = ("get", "--raw", "/readyz")
            self.cluster.until(
                lambda: self.cluster.control_plane.try_kubectl(*ready).stdout == "ok",
                "kubelet-cloud",
                timeout=60,  # 13 s where nothing else runs
            )

    def _words(self) -> list[str]:
        return self.cluster.control_plane.api_words()

    def _end(self) -> None:
        self._node.try_(["rm", "-f", _MANIFEST])
        # And the kubelet is done with it: it has a next one of its name wait for ten seconds otherwise.
        self.cluster.until(lambda: not list(self._node.path(_PODS).glob("*/containers/kube-apiserver")))
        self._pod = {}


def _not_keys(names: list[str]) -> set[str]:
    """All that is no folder of keys and certificates, nor one of them."""
    wanted = ("pki", ".crt", ".key", ".pem", ".csr", ".srl")
    return {name for name in names if not name.startswith(wanted) and not name.endswith(wanted)}


def _pod(words: list[str]) -> dict[str, Any]:
    container = {
        "name": "kube-apiserver",
        "image": images.BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["/programs/kube-apiserver", *words],
        "volumeMounts": [
            {"name": name, "mountPath": f"/{name}", "readOnly": True} for name in ("files", "programs")
        ],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "kube-apiserver", "namespace": "kube-system"},
        "spec": {
            "hostNetwork": True,
            "priorityClassName": "system-node-critical",
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
            "volumes": [{"name": name, "hostPath": {"path": f"/{name}"}} for name in ("files", "programs")],
        },
    }


def _add(spec: dict[str, Any], fragment: Mapping[str, Any]) -> None:
    """Put a page's lines beside what is there, as an editor does: a flag stands once."""
    (container,), (added,) = spec["containers"], fragment["containers"]
    flags = {word.partition("=")[0]: word for word in (*container["command"], *added["command"][1:])}
    container["command"] = list(flags.values())
    container["volumeMounts"] += added.get("volumeMounts", [])
    spec["volumes"] += fragment.get("volumes", [])
    spec.update({key: value for key, value in fragment.items() if key not in {"containers", "volumes"}})
