"""A node of the cluster: containerd and a kubelet on a host of the topology, with a root of their own.

What is installed on this computer (/usr) is there; all else that they write is in memory, and is gone, like
every process and mount of the node, when its first process is killed. The one trace outside of it is the
control group, which is removed then.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.e2e.cluster import control_groups, images
from tests.e2e.cluster.certificates import kubeconfig
from tests.e2e.cluster.control_plane import ControlPlane
from tunnelctl.demo.processes import Processes
from tunnelctl.demo.topology import Host

_SECONDS = 40.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
STATIC_PODS = "/etc/kubernetes/manifests"
"""Where a kubelet takes pods from files; there is no such folder yet."""
DNS = "10.96.0.10"
"""Where pods look for the cluster's DNS; there is none unless a test has it."""
# The kubelet sets these for the whole computer, unless they are so already: it is shown that they are.
_SYSCTLS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
# The last line is the first process of the node: it reaps what containerd leaves behind.
_STAGE = """
set -e
name=$1 files=$2 programs=$3
hostname "$name"
mount -t tmpfs -o mode=755 tmpfs /mnt
cd /mnt
mkdir dev etc files old programs proc root run sys tmp usr var
chmod 1777 tmp
for each in /bin /lib* /sbin; do
    if [ -L "$each" ]; then cp -P "$each" .; else mkdir ".$each"; mount --bind "$each" ".$each"; fi
done
cp -a /etc/. etc
rm -rf etc/cni etc/resolv.conf
: > etc/resolv.conf
mkdir -p etc/cni/net.d
cp "$files/bridge.conflist" etc/cni/net.d
mount --bind /usr usr
mount -o remount,bind,ro usr
mount --bind "$files" files
mount --bind "$programs" programs
mount --rbind /dev dev
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mkdir run/lock run/netns var/lib var/log var/tmp
for each in $4; do
    mount --bind "files/sysctl/$each" "proc/sys/$each"
done
pivot_root . old
cd /
umount -l /old
touch /run/up
sleep infinity & wait
"""
_CONTAINERD = f"""
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{images.PAUSE}"
disable_apparmor = true
# Not every machine that runs these tests may lower it (CAP_SYS_RESOURCE).
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "/etc/cni/net.d"
"""


class Node:
    """One of them, by its host's name; see the module."""

    def __init__(
        self, host: Host, control_plane: ControlPlane, processes: Processes, archive: Path, pods: str
    ) -> None:
        """Prepare it; `archive` has the images that it starts with, `pods` is the network of its pods."""
        self.host = host
        self.name = host.name
        self._control_plane = control_plane
        self._processes = processes
        self._archive = archive
        self._pods = pods
        self._files = control_plane.directory / f"node-{host.name}"
        self._first = 0
        self._labels = ""
        self._stack = contextlib.ExitStack()

    # its life

    def boot(self) -> None:
        """Start its first process and containerd."""
        if not self._files.exists():
            self._write_files()
        self._stack.enter_context(control_groups.control_group(self._group))
        self._stack.callback(self._kill)
        self._begin()
        self._start("containerd", "containerd", "--config", "/files/containerd.toml")

    def join(self, labels: Mapping[str, str]) -> None:
        """Start its kubelet; return when the API knows the node. What pods it has come up by themselves."""
        self._until(lambda: self.try_(["ctr", "version"]).returncode == 0, "containerd")
        self.load(self._archive)
        self._labels = ",".join(f"{key}={value}" for key, value in labels.items())
        self._start_kubelet()
        found = ["get", "node", self.name, "-o", "name"]
        self._until(lambda: self._control_plane.try_kubectl(*found).returncode == 0, "kubelet")

    def restart_kubelet(self) -> None:
        """Containers run on, and it asks the API for its pods at once."""
        self.end("kubelet")
        self._start_kubelet()

    def stop(self) -> None:
        """Pull its plug, and forget all that it had. The API still has the Node object."""
        self._stack.close()

    def end(self, name: str) -> None:
        """Kill its `kubelet` or its `containerd`; containers run on."""
        outer = self._processes[self._process(name)]
        _kill(int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()[0]))
        self._processes.end(self._process(name))

    @contextlib.contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Stop one of its programs within, and have it go on then."""
        (found,) = self.try_(["pidof", name]).stdout.split()
        self.try_(["kill", "-STOP", found])
        try:
            yield
        finally:
            self.try_(["kill", "-CONT", found])

    # what is done on it

    def path(self, name: str) -> Path:
        """One of its files or sockets, as this process reaches it."""
        return Path(f"/proc/{self._first}/root{name}")

    def load(self, archive: Path) -> None:
        """Have containerd import the images of an archive."""
        with archive.open("rb") as content:
            done = subprocess.run(
                self.command(["ctr", "--namespace", "k8s.io", "images", "import", "-"]),
                stdin=content, capture_output=True, text=True, check=False, timeout=_SECONDS,
            )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def command(self, words: Sequence[str]) -> list[str]:
        """The command line that runs a program on it, among its files and processes."""
        enter = ["nsenter", "-t", str(self._first), "-m", "-n", "-p", "-u", "-i"]
        return [*enter, "env", "-i", f"PATH={_PATH}", "HOME=/root", *words]

    def try_(self, words: Sequence[str], *, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a program on it, however it ends."""
        return subprocess.run(
            self.command(words), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=timeout,
        )  # fmt: skip

    # inside

    @property
    def _group(self) -> str:
        return self.host.namespace

    def _process(self, program: str) -> str:
        return f"{program}-{self.name}"

    def _begin(self) -> None:
        unshare = ["unshare", "--mount", "--propagation", "private", "--pid", "--uts", "--ipc", "--fork"]
        enter = ["nsenter", f"--net=/run/netns/{self.host.namespace}", *unshare, "--kill-child"]
        stage = ["sh", "-c", _STAGE, "stage", self.name, str(self._files), str(self._control_plane.programs)]
        words = ["setpriv", "--pdeathsig", "KILL", *enter, *stage, " ".join(_SYSCTLS)]
        outer = self._processes.start(name := self._process("node"), words)
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        self._first = int(self._until(lambda: children.read_text().split(), name)[0])
        self._until(lambda: self.try_(["test", "-e", "/run/up"]).returncode == 0, name)

    def _start(self, name: str, *words: str) -> None:
        self._processes.start(self._process(name), self.command(words))

    def _start_kubelet(self) -> None:
        words = [
            "--config=/files/kubelet.json",
            "--kubeconfig=/files/kubeconfig",
            "--cert-dir=/var/lib/kubelet/pki",
        ]
        words += [f"--hostname-override={self.name}", f"--node-ip={self.host.address}"]
        words.append(f"--node-labels={self._labels}")
        self._start("kubelet", "/programs/kubelet", *words)

    def _kill(self) -> None:
        self._processes.end(self._process("node"), signum=signal.SIGKILL)
        for name in ("kubelet", "containerd"):
            if self._process(name) in self._processes.names():
                self._processes.end(self._process(name))

    def _until(self, condition: Callable[[], Any], program: str) -> Any:
        name = program if program.startswith("node-") else self._process(program)
        deadline = time.monotonic() + _SECONDS
        while not (result := condition()):
            assert name not in self._processes.ended(), f"{name} ended:\n{self._processes.tail(name, 30)}"
            assert time.monotonic() < deadline, f"{name}:\n{self._processes.tail(name, 30)}"
            time.sleep(0.05)
        return result

    def _write_files(self) -> None:
        authority = self._control_plane.authority
        user = f"system:node:{self.name}"
        pair = authority.issue(f"node-{self.name}", user, groups=["system:nodes"])
        names = [self.name, self.host.address]
        own = authority.issue(f"kubelet-{self.name}", user, groups=["system:nodes"], sans=names, server=True)
        self._files.mkdir()
        kubeconfig(self._files / "kubeconfig", self._control_plane.server, authority.ca, pair=pair)
        for name, source in {"ca.crt": authority.ca, "own.crt": own.certificate, "own.key": own.key}.items():
            (self._files / name).write_bytes(source.read_bytes())
        for name, value in _SYSCTLS.items():
            (file := self._files / "sysctl" / name).parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n")
        (self._files / "containerd.toml").write_text(_CONTAINERD)
        (self._files / "bridge.conflist").write_text(json.dumps(_pod_network(self._pods)))
        (self._files / "kubelet.json").write_text(json.dumps(self._kubelet()))

    def _kubelet(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": "/files/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "staticPodPath": STATIC_PODS,
            "clusterDNS": [DNS],
            "clusterDomain": "cluster.local",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._group}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "tlsCertFile": "/files/own.crt",
            "tlsPrivateKeyFile": "/files/own.key",
            "nodeStatusUpdateFrequency": "4s",
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "localStorageCapacityIsolation": False,
        }


def _pod_network(subnet: str) -> dict[str, Any]:
    addresses = {"type": "host-local", "ranges": [[{"subnet": subnet}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "ipam": addresses}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
