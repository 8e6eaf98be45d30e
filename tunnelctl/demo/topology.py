"""A small internet of network namespaces: a cloud, factories behind NAT, and edges that nobody can dial.

    cloud 203.0.113.10 -- internet 203.0.113.1 -- nat 203.0.113.11 | 192.168.2.1 -- edge-1 192.168.2.143
                                                                                 -- edge-2 192.168.2.144

Everything carries one prefix, so that several can stand beside each other, and goes again with it.
Needs root and `ip`.
"""

import ipaddress
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Self

ROUTER = "203.0.113.1"


class TopologyError(Exception):
    """The namespaces can't be had; one line that says why."""


class NotRootError(TopologyError):
    """Only root may make network namespaces."""


@dataclass(frozen=True)
class Site:
    """A private network behind one NAT router. The router's inner address is the network's first."""

    router: str = "nat"
    address: str = "203.0.113.11"
    edges: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({"edge-1": "192.168.2.143", "edge-2": "192.168.2.144"})
    )
    prefix_length: int = 24


@dataclass(frozen=True)
class Host:
    """One namespace: a machine with its own interfaces, routes, firewall and ports."""

    name: str
    namespace: str
    address: str

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """The command line that runs `argv` on this host."""
        return ["ip", "netns", "exec", self.namespace, *map(str, argv)]

    def run(
        self, argv: Sequence[str | Path], *, timeout: float = 30, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on this host to its end, however it ends. Raises subprocess.TimeoutExpired."""
        return subprocess.run(
            self.command(argv), input=stdin, timeout=timeout, capture_output=True, text=True, check=False
        )


class Topology:
    """The namespaces, as a context manager: built on entering, gone on leaving and on failing half-way."""

    def __init__(
        self,
        prefix: str,
        *,
        sites: Sequence[Site] = (Site(),),
        public: Mapping[str, str] = MappingProxyType({"cloud": "203.0.113.10"}),
    ) -> None:
        """Take namespaces that start with `prefix`-; `public` hosts, by address, stand in the internet."""
        self._prefix = prefix
        self._sites = tuple(sites)
        self._public = dict(public)
        self._hosts: dict[str, Host] = {}

    def __enter__(self) -> Self:
        """Build it. Raises TopologyError, and then nothing is left."""
        try:
            remove(self._prefix)
            self._build()
        except BaseException:
            remove(self._prefix)
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        remove(self._prefix)

    @property
    def cloud(self) -> Host:
        """The public host called cloud."""
        return self._hosts["cloud"]

    def edge(self, number: int) -> Host:
        """The edge called edge-`number`."""
        return self._hosts[f"edge-{number}"]

    def host(self, name: str) -> Host:
        """The host of that name: public, a router or an edge."""
        return self._hosts[name]

    def cut(self, name: str) -> None:
        """Pull the cable between the internet and `name` (a router or a public host): no packet, no error."""
        _ip(self._namespace("internet"), f"link set dev {name} down")

    def heal(self, name: str) -> None:
        """Put the cable back."""
        _ip(self._namespace("internet"), f"link set dev {name} up")

    def _namespace(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _add(self, name: str, address: str) -> Host:
        host = self._hosts[name] = Host(name, self._namespace(name), address)
        _ip(None, f"netns add {host.namespace}")
        _ip(host.namespace, "link set dev lo up")
        return host

    def _build(self) -> None:
        internet = self._add("internet", ROUTER)
        _add_bridge(internet, "bridge", f"{ROUTER}/24")
        # Forwards, though it has nowhere to: a private address is answered "unreachable", as by real routers.
        # And answers each time: by default Linux does so once a second.
        for name, value in [("ip_forward", 1), ("icmp_ratelimit", 0)]:
            _check(internet.run(["sh", "-c", f"echo {value} > /proc/sys/net/ipv4/{name}"]), name)
        for name, address in self._public.items():
            _plug(internet, "bridge", self._add(name, address), "internet", 24, ROUTER)
        for site in self._sites:
            router = self._add(site.router, site.address)
            _plug(internet, "bridge", router, "internet", 24, ROUTER)
            inner = ipaddress.ip_interface(f"{next(iter(site.edges.values()))}/{site.prefix_length}").network
            _add_bridge(router, "lan", f"{inner[1]}/{site.prefix_length}")
            # By path: this very file's neighbour, whatever the working directory and the environment.
            nat = Path(__file__).with_name("nat.py")
            _check(router.run([sys.executable, "-I", nat, "internet", "lan"]), "the router's NAT rules")
            for name, address in site.edges.items():
                _plug(router, "lan", self._add(name, address), "lan", site.prefix_length, str(inner[1]))


def check_prerequisites() -> None:
    """Raise NotRootError, or TopologyError naming the program that is missing and its package."""
    if os.geteuid() != 0:
        raise NotRootError("network namespaces need root")
    if shutil.which("ip") is None:
        raise TopologyError("the program `ip` is missing: apt-get install iproute2")


def existing(prefix: str) -> list[str]:
    """The namespaces there are that start with `prefix`-, this process's or another's."""
    listed = _run(["ip", "netns", "list"])
    return [name for line in listed.splitlines() if (name := line.split()[0]).startswith(f"{prefix}-")]


def remove(prefix: str) -> None:
    """Remove every namespace that starts with `prefix`-, whoever made it, with its links and rules."""
    for namespace in existing(prefix):
        _ip(None, f"netns delete {namespace}")


def _add_bridge(host: Host, name: str, address: str) -> None:
    _ip(
        host.namespace,
        f"link add name {name} type bridge",
        f"address add {address} dev {name}",
        f"link set dev {name} up",
    )


def _plug(switch: Host, bridge: str, host: Host, interface: str, prefix_length: int, gateway: str) -> None:
    """Connect `host` to a bridge of `switch`; its port there carries the host's name."""
    _ip(
        switch.namespace,
        f"link add name {host.name} type veth peer name {interface} netns {host.namespace}",
        f"link set dev {host.name} master {bridge} up",
    )
    _ip(
        host.namespace,
        f"address add {host.address}/{prefix_length} dev {interface}",
        f"link set dev {interface} up",
        f"route add default via {gateway}",
    )


def _ip(namespace: str | None, *commands: str) -> None:
    where = [] if namespace is None else ["-netns", namespace]
    _run(["ip", *where, "-batch", "-"], stdin="\n".join(commands) + "\n")


def _run(argv: Sequence[str], *, stdin: str | None = None) -> str:
    try:
        # A session of its own: a Ctrl-C must not kill it half-way, we clean up after it.
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, check=False, timeout=30, start_new_session=True
        )
    except FileNotFoundError:
        raise TopologyError(f"the program `{argv[0]}` is missing: apt-get install iproute2") from None
    return _check(done, stdin.strip().replace("\n", "; ") if stdin else " ".join(argv))


def _check(done: subprocess.CompletedProcess[str], what: str) -> str:
    if done.returncode != 0:
        said = "; ".join(line.strip() for line in done.stderr.splitlines() if "Command failed" not in line)
        remedy = (
            " (is this a container without CAP_SYS_ADMIN and CAP_NET_ADMIN?)"
            if "not permitted" in said
            else ""
        )
        raise TopologyError(f"network namespaces: {what}: {said or f'exit status {done.returncode}'}{remedy}")
    return done.stdout
