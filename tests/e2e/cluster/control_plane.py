"""etcd and a kube-apiserver, and who may ask it what: the least that is a real Kubernetes API."""

import contextlib
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kubernetes import client, config

from tests.e2e.cluster.certificates import Authority, Pair, kubeconfig, signing_key
from tests.e2e.cluster.components import build
from tunnelctl.demo.processes import Processes

ISSUER = "https://kubernetes.default.svc"
SERVICES = "10.96.0.0/16"
_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "127.0.0.1", "10.96.0.1")
# Not told by SIGTERM, as Processes do it, when the tests are killed: that takes kube-apiserver a minute.
_MORTAL = ("setpriv", "--pdeathsig", "KILL")
_UNSHARE = ("unshare", "--mount", "--propagation", "private")
_PROGRAMS = ("etcd", *build.PROGRAMS)
_START = 60.0  # seconds; it takes three on an idle machine


class ControlPlane:
    """One of its own, with authorities of its own. Nothing of it is on a disk but certificates and logs."""

    def __init__(
        self, directory: Path, processes: Processes, *, address: str = "127.0.0.1", enter: Sequence[str] = ()
    ) -> None:
        """Prepare what is served at `address`; `enter` are the words that bring a program to its host."""
        self.directory = directory
        self.address = address
        self.programs = build.place()
        self._processes = processes
        self._enter = tuple(enter)
        self.names = directory / "hosts"
        """What kube-apiserver has as /etc/hosts: how it finds nodes by name. It needs no restart."""
        self.names.write_text("127.0.0.1 localhost\n")
        # On a host of its own it has the ports that it has everywhere.
        self.port, self._etcd = (6443, 2379) if enter else _free_ports()
        self.server = f"https://{address}:{self.port}"
        self.authority = Authority(directory / "pki", "kubernetes")
        self._front_proxy = Authority(directory / "pki-front-proxy", "front-proxy")
        self.signing_key = signing_key(directory / "service-accounts.key")
        """Signs ServiceAccount tokens: a test may make one that is expired, or somebody else's."""
        self.kubeconfig = self.as_user("admin", "system:masters")
        """The path of the cluster administrator's."""
        self._clients: list[client.ApiClient] = []
        self._flags: dict[str, str] = {}

    # its programs

    def start(self, **flags: str) -> None:
        """Start both; return when the API answers. `flags` go to kube-apiserver, beside the usual."""
        data = self.directory / "etcd"
        data.mkdir()
        endpoint = f"http://127.0.0.1:{self._etcd}"
        # In memory, and gone with the process: nothing waits for a disk. It has no way to turn fsync off.
        stage = 'mount -t tmpfs -o mode=700 etcd "$0" && exec "$@"'
        words = ["etcd", "--data-dir", str(data), "--listen-client-urls", endpoint]
        words += ["--advertise-client-urls", endpoint, "--listen-peer-urls", "http://127.0.0.1:0"]
        words += ["--log-level", "warn", "--logger", "zap"]
        unshare = ["unshare", "--mount", "--propagation", "private"]
        self._processes.start(
            "etcd", [*_MORTAL, *self._enter, *unshare, "sh", "-c", stage, str(data), *words]
        )
        self.start_api(**flags)

    def start_api(self, **flags: str) -> None:
        """Start kube-apiserver, perhaps again: with what etcd holds."""
        self._flags = flags
        self.start_program("kube-apiserver", *self.api_words(**flags))
        self._wait_ready()

    def api_words(self, **flags: str) -> list[str]:
        """kube-apiserver's command line with `flags` beside the usual."""
        given = {key.replace("_", "-"): value for key, value in flags.items()}
        return [f"--{key}={value}" for key, value in (self._usual_flags() | given).items()]

    def start_program(self, name: str, *words: str) -> None:
        """Start one of Kubernetes' programs where the API is, with names of its own, and no name server."""
        stage = 'mount --bind "$0" /etc/hosts && mount --bind /dev/null /etc/resolv.conf && exec "$@"'
        unshare = [*_UNSHARE, "sh", "-c", stage, str(self.names)]
        self._processes.start(name, [*_MORTAL, *self._enter, *unshare, str(self.programs / name), *words])

    def stop_api(self) -> None:
        """End kube-apiserver at once, as when its machine fails. What etcd holds stays."""
        self._processes.end("kube-apiserver", signum=signal.SIGKILL)

    def restart_api(self) -> None:
        """With an empty watch cache: a watch that goes on from before is answered 410 Gone."""
        self.stop_api()
        self.start_api(**self._flags)

    def configure_api(self, **flags: str) -> None:
        """Have it run with these flags: restart it if it has others."""
        if flags != self._flags:
            self.stop_api()
            self.start_api(**flags)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Have kube-apiserver accept connections and answer nothing meanwhile."""
        process = self._processes["kube-apiserver"]
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Close the clients, end the programs. A tidy end would take kube-apiserver a minute."""
        for each in self._clients:
            each.close()
        for name in reversed([name for name in self._processes.names() if name in _PROGRAMS]):
            self._processes.end(name, signum=signal.SIGKILL)

    def _usual_flags(self) -> dict[str, str]:
        names = [*_NAMES, self.address]
        own = self.authority.issue("kube-apiserver", "kube-apiserver", sans=names, server=True)
        kubelets = self.authority.issue(
            "kubelet-client", "kube-apiserver-kubelet-client", groups=["system:masters"]
        )
        proxy = self._front_proxy.issue("client", "front-proxy-client")
        loopback = self.address.startswith("127.")
        flags: dict[str, object] = {
            "etcd-servers": f"http://127.0.0.1:{self._etcd}",
            "bind-address": self.address if loopback else "0.0.0.0",
            "secure-port": self.port,
            "service-cluster-ip-range": SERVICES,
            "client-ca-file": self.authority.ca,
            "tls-cert-file": own.certificate,
            "tls-private-key-file": own.key,
            "kubelet-client-certificate": kubelets.certificate,
            "kubelet-client-key": kubelets.key,
            "kubelet-certificate-authority": self.authority.ca,
            "kubelet-preferred-address-types": "InternalIP,Hostname",
            "requestheader-client-ca-file": self._front_proxy.ca,
            "requestheader-allowed-names": "front-proxy-client",
            "requestheader-username-headers": "X-Remote-User",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "proxy-client-cert-file": proxy.certificate,
            "proxy-client-key-file": proxy.key,
            "service-account-issuer": ISSUER,
            "service-account-key-file": self.signing_key,
            "service-account-signing-key-file": self.signing_key,
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "allow-privileged": "true",
        }
        if loopback:  # which can't be an endpoint of the Service `kubernetes`
            flags |= {"advertise-address": "10.96.0.1", "endpoint-reconciler-type": "none"}
        else:
            flags["advertise-address"] = self.address
        return {key: str(value) for key, value in flags.items()}

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + _START
        words = ["get", "--raw", "/readyz"]
        while self.try_kubectl(*words).stdout != "ok" or self.try_kubectl("get", "ns", "default").returncode:
            for name in ("etcd", "kube-apiserver"):
                tail = self._processes.tail(name, 20)
                assert name not in self._processes.ended(), f"{name} ended:\n{tail}"
                assert time.monotonic() < deadline, f"not ready within {_START} s; {name}:\n{tail}"
            time.sleep(0.1)

    # who asks

    def client(self, config_file: Path | None = None) -> client.ApiClient:
        """A client of the Python library: the administrator unless a kubeconfig says who. Closed at last."""
        made = config.new_client_from_config(str(config_file or self.kubeconfig))
        self._clients.append(made)
        return made

    def as_user(self, name: str, *groups: str) -> Path:
        """The kubeconfig of a user with a client certificate. RBAC says what that one may."""
        pair = self.authority.issue(f"user-{name.replace(':', '-')}", name, groups=groups)
        return self._kubeconfig(name, pair=pair)

    def as_service_account(self, namespace: str, name: str) -> Path:
        """The kubeconfig of a ServiceAccount, which must be there."""
        return self._kubeconfig(f"{namespace}-{name}", token=self.token(namespace, name))

    def _kubeconfig(self, name: str, *, pair: Pair | None = None, token: str | None = None) -> Path:
        path = self.directory / f"{name.replace(':', '-')}.kubeconfig"
        return kubeconfig(path, self.server, self.authority.ca, pair=pair, token=token)

    def token(
        self,
        namespace: str,
        name: str,
        *,
        audience: str = ISSUER,
        pod: str | None = None,
        seconds: int = 3600,
    ) -> str:
        """A ServiceAccount's token, as TokenRequest gives it; bound to a pod, as the kubelet asks for it."""
        words = ["create", "token", name, "--namespace", namespace, "--audience", audience]
        words += ["--duration", f"{seconds}s"]
        if pod is not None:
            words += ["--bound-object-kind", "Pod", "--bound-object-name", pod]
        return self.kubectl(*words).strip()

    # kubectl

    def kubectl(
        self, *words: str, kubeconfig: Path | None = None, stdin: str | None = None, timeout: float = 30
    ) -> str:
        """What kubectl writes to standard output; it must succeed."""
        done = self.try_kubectl(*words, kubeconfig=kubeconfig, stdin=stdin, timeout=timeout)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout

    def try_kubectl(
        self, *words: str, kubeconfig: Path | None = None, stdin: str | None = None, timeout: float = 30,
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run the kubectl of this Kubernetes' own release where its API is, however it ends."""
        return subprocess.run(
            self.kubectl_command(*words, kubeconfig=kubeconfig, env=env),
            input=stdin, capture_output=True, text=True, check=False, timeout=timeout,
        )  # fmt: skip

    def kubectl_command(
        self, *words: str, kubeconfig: Path | None = None, env: Mapping[str, str] = MappingProxyType({})
    ) -> list[str]:
        """The command line, for those who look on while it runs."""
        # Not the user's cache: it would be asked of another cluster at the same address.
        variables = {"KUBECACHEDIR": str(self.directory / "kubectl-cache"), **env}
        where = ["--kubeconfig", str(kubeconfig or self.kubeconfig)]
        enter = [*self._enter, "env", *(f"{key}={value}" for key, value in variables.items())]
        return [*enter, str(self.programs / "kubectl"), *where, *words]

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """`kubectl apply` these, which are as in YAML."""
        self.kubectl("apply", "-f", "-", stdin=_listed(objects))

    def delete(self, *objects: Mapping[str, Any]) -> None:
        """Delete these, which need only say which they are."""
        self.kubectl("delete", "-f", "-", stdin=_listed(objects))

    def namespace(self, name: str) -> str:
        """Make a namespace, with the ServiceAccount `default`, which a controller makes elsewhere."""
        self.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": "default", "namespace": name},
            },
        )
        return name


def _listed(objects: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]
