"""The server's settings: what may stand in server.toml, with units and defaults."""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path

from certs.addresses import DEFAULT_EDGE_NETWORKS, format_endpoint
from certs.authority import NODE_LIFE
from certs.identity import check_name, check_node_name
from tunnel_daemon.command_line import settings_from_flags
from tunnel_daemon.logs import LogFormat, LogLevel
from tunnel_daemon.settings import between, read_settings, setting
from tunnel_daemon.settings_aliases import Aliased, add_alias_flags, read_aliases
from tunnel_daemon.settings_flags import add_setting_flags
from tunnel_daemon.settings_values import Address, Network
from tunnel_daemon.toml_lines import KeyPath
from tunnel_server.endpoints import FixedListener, ServerAddress
from tunnel_server.kube.settings import KubernetesSettings
from tunnel_server.limits import ServerLimits
from tunnel_server.node_networks import NodeSettings
from tunnel_server.port_lists import PortLists, read_port_lists
from tunnel_server.rights import CallerRights, check_caller_name
from tunnel_server.yurt_flags import ALIASES

DEFAULT_CONFIG = Path("/etc/edge-tunnel/server.toml")
DEFAULT_ADMIN_SOCKET = Path("/run/edge-tunnel/admin.sock")
DEFAULT_CONNECT_SOCKET = Path("connect.sock")
DEFAULT_DIRECT_NETWORKS = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
HANDOVER_SUFFIX = ".next"
"""What the path of the socket for handing over has beyond admin-socket's."""
MAX_SOCKET_PATH = 107  # bytes, sun_path without its NUL

_PORT = between(0, 65535)


def _check_suffix(suffix: str) -> None:
    if bare := suffix.strip(".").lower():
        check_name(bare)  # what may stand in front of it, too


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """Everything that the server's operator decides."""

    state_dir: Path = setting(
        Path("/var/lib/edge-tunnel"),
        doc="authority, certificates, tokens, port mappings; see `tunnelctl init`",
    )
    bind_address: tuple[Address, ...] = setting(
        (IPv4Address("0.0.0.0"),),  # noqa: S104 - agents come from anywhere
        doc='where agents are listened for, on tunnel-port; add "::" for IPv6',
    )
    tunnel_port: int = setting(
        10262, doc="for agents: links, and joining by HTTPS; 0: any free one", check=_PORT
    )
    openssl_only: bool = setting(
        False,
        doc="leave this end's links to OpenSSL altogether: slower with bulk, but nothing else encrypts them, "
        "where that is a rule (FIPS)",
    )
    secure_port: int = setting(10263, doc="where captured connections to TLS ports arrive", check=_PORT)
    insecure_port: int = setting(10264, doc="where captured connections to plain ports arrive", check=_PORT)
    meta_address: Address = setting(
        IPv4Address("127.0.0.1"),
        doc="where /healthz, /readyz and /metrics are served, to anybody",
    )
    meta_port: int = setting(10265, doc="its port; 0: any free one", check=_PORT)
    admin_socket: Path = setting(DEFAULT_ADMIN_SOCKET, doc="Unix socket for tunnelctl")
    admin_uids: tuple[int, ...] = setting(
        (), doc="users who may use the admin socket, besides root and the server's own; by number", live=True
    )
    server_addresses: tuple[ServerAddress, ...] = setting(
        (), doc="where agents reach this server from outside; handed to each agent that joins", live=True
    )
    node_certificate_life: float = setting(
        NODE_LIFE.total_seconds(),
        doc="of what a node is issued from then on, `2160h` is 90 days; its agent renews it when about two "
        "thirds of that are over",
        unit="seconds",
        check=between(1, 315_360_000),
        live=True,
    )
    edge_networks: tuple[Network, ...] = setting(
        DEFAULT_EDGE_NETWORKS, doc="the only networks in which an edge may claim an address", live=True
    )
    caller_networks: tuple[Network, ...] = setting(
        (),
        doc="callers on other hosts, or in pods, whose connections to edges are captured too",
        live=True,
    )
    prerouting_address: tuple[Address, ...] = setting(
        (),
        doc="ordinary address of this host at which caller-networks are served; one a family",
        live=True,
    )
    intercept: bool = setting(True, doc="capture connections to edge addresses (needs CAP_NET_ADMIN)")
    https_proxy_ports: str = setting(
        "",
        doc="ports to capture for secure-port, `9443, 8000-8010`; the strongest of the three lists; "
        "10250 is built in",
        live=True,
    )
    http_proxy_ports: str = setting(
        "",
        doc="ports to capture for insecure-port, likewise; 10255 is built in",
        live=True,
    )
    dnat_ports_pair: str = setting(
        "",
        doc="ports to capture and the listener each goes to, `9081=10264, 9051=10264`; without any `=`, "
        "a list of ports for insecure-port; the weakest of the three lists",
        live=True,
    )
    localhost_proxy_ports: str = setting(
        "",
        doc="ports that the agents dial on their own loopback (127.0.0.1, or ::1 for an IPv6 address) "
        "instead of at the address that was called, `10266, 10267`; captures nothing by itself",
        live=True,
    )
    listen: tuple[FixedListener, ...] = setting(
        (),
        doc="fixed listeners, which need no privilege: what connects there goes to the node's port",
        live=True,
    )
    direct_networks: tuple[Network, ...] = setting(
        DEFAULT_DIRECT_NETWORKS,
        doc="who may connect to secure-port and insecure-port directly, and reach edges by name",
        live=True,
    )
    direct_address: tuple[Address, ...] = setting(
        (),
        doc="addresses of this host, besides loopback, at which direct-networks are served",
        live=True,
    )
    name_suffix: str = setting(
        "",
        doc="domain under which edges are called by name: with `edges.example.org`, "
        "`edge-1.edges.example.org` is edge-1",
        check=_check_suffix,
        live=True,
    )
    secure_target_port: int = setting(
        10250,
        doc="port of the edge for direct TLS connections whose server name names none (`PORT.NODE` does)",
        check=between(1, 65535),
        live=True,
    )
    connect_socket: Path | None = setting(
        DEFAULT_CONNECT_SOCKET,
        doc="Unix socket for HTTP CONNECT, as kube-apiserver and tunnelctl speak it; a relative path is "
        "beside admin-socket",
    )
    connect_uids: tuple[int, ...] = setting(
        (), doc="users who may use connect-socket, besides root and the server's own; by number", live=True
    )
    audit_log: Path | None = setting(
        None, doc="file for one JSON line a call: who reached what, how much, how it ended; SIGHUP reopens it"
    )
    log_level: LogLevel = setting("info", doc="least level that is logged", live=True)
    log_format: LogFormat = setting("text", doc="lines of text, or of JSON", live=True)
    kubernetes: KubernetesSettings = setting(
        KubernetesSettings(),
        doc="The cluster whose edges these are, see docs/kubernetes.md; counts only if `enabled`.",
    )
    limits: ServerLimits = setting(
        ServerLimits(), doc="Bounds; the defaults suit a machine with 2 GiB and more."
    )
    callers: dict[str, CallerRights] = setting(
        {},
        doc="What the holder of the certificate `tunnelctl caller create NAME` may reach; without a table, "
        "nothing. `[callers.local]` is for the users of connect-socket and admin-socket, who reach every "
        "node unless it says less.",
        check=check_caller_name,
        live=True,
    )
    nodes: dict[str, NodeSettings] = setting(
        {},
        doc="What the operator adds to what a node has in its certificate. A network is one node's; of "
        "nested ones the narrowest wins; an edge's own address is always called at that edge. Loopback, "
        "link-local and metadata addresses and this host's own are never reached so.",
        check=check_node_name,
        live=True,
    )

    def port_lists(self) -> PortLists:
        """What the lists of ports come to, with a line for each entry that does not count."""
        return read_port_lists(
            self.dnat_ports_pair,
            self.http_proxy_ports,
            self.https_proxy_ports,
            self.localhost_proxy_ports,
            insecure_port=self.insecure_port,
            secure_port=self.secure_port,
        )

    def pins(self) -> dict[Address, str]:
        """The node of each address in pinned-addresses."""
        return {address: name for name, node in self.nodes.items() for address in node.pinned_addresses}

    def node_life(self) -> timedelta:
        """node-certificate-life."""
        return timedelta(seconds=self.node_certificate_life)

    def connect_path(self) -> Path | None:
        """Where connect-socket is; None for none."""
        return self.admin_socket.parent / self.connect_socket if self.connect_socket else None

    def cross_check(self) -> Iterator[tuple[str | KeyPath, str]]:
        """Yield (key, problem) for what is wrong between settings."""
        if not self.bind_address:
            yield "bind-address", "no agent can connect without one; the default is 0.0.0.0"
        yield from self._check_ports()
        yield from self._check_prerouting()
        local = [(each.host, each.port) for each in self.listen]
        for host, port in dict.fromkeys(place for place in local if local.count(place) > 1):
            yield "listen", f"{format_endpoint(host, port)} is given twice; one listener has one target"
        yield from self._check_sockets()
        yield from self._check_nodes()
        # The default would do for nobody: pods, services and other machines are in these networks too.
        if self.kubernetes.enabled and self.edge_networks is DEFAULT_EDGE_NETWORKS:
            text = "must be given with [kubernetes]: name the networks that edges are in, and nothing else is"
            yield "edge-networks", text

    def _check_nodes(self) -> Iterator[tuple[KeyPath, str]]:
        taken: dict[Network, str] = {}
        pins: dict[Address, str] = {}
        for name, node in self.nodes.items():
            for network in node.networks:
                if taken.setdefault(network, name) != name:
                    text = f"{network} is of {taken[network]} already: a network leads to one node"
                    yield ("nodes", name, "networks"), text
            for address in node.pinned_addresses:
                if pins.setdefault(address, name) != name:
                    text = f"{address} is pinned to {pins[address]} already: an address is one node's"
                    yield ("nodes", name, "pinned-addresses"), text

    def _check_sockets(self) -> Iterator[tuple[str, str]]:
        for key, path in (("admin-socket", self.admin_socket), ("connect-socket", self.connect_path())):
            # Beside the admin socket there is another one, with a longer name.
            most = MAX_SOCKET_PATH - len(HANDOVER_SUFFIX) * (key == "admin-socket")
            if path and len(str(path).encode()) > most:
                yield key, f"is longer than the {most} bytes that a socket's path may have"
        if self.connect_path() == self.admin_socket:
            yield "connect-socket", "is admin-socket's already; each needs its own"

    def _check_ports(self) -> Iterator[tuple[str, str]]:
        taken: dict[int, str] = {}
        defaults = {field.name: field.default for field in fields(self)}
        for key in ("tunnel-port", "secure-port", "insecure-port", "meta-port"):
            name = key.replace("-", "_")
            port: int = getattr(self, name)
            if port in taken and port:
                # Blamed is the one that somebody has set.
                ours, theirs = (taken[port], key) if port == defaults[name] else (key, taken[port])
                yield ours, f"{port} is {theirs}'s already; each needs its own"
            taken.setdefault(port, key)
            if self.intercept and not port and key in {"secure-port", "insecure-port"}:
                yield key, "captured connections need a port that is known: give one"

    def _check_prerouting(self) -> Iterator[tuple[str, str]]:
        versions = [address.version for address in self.prerouting_address]
        for version in dict.fromkeys(network.version for network in self.caller_networks):
            if version not in versions:
                yield (
                    "caller-networks",
                    f"IPv{version} callers need a prerouting-address: an IPv{version} address of this host",
                )
        for version in (4, 6):
            if versions.count(version) > 1:
                yield "prerouting-address", f"more than one for IPv{version}; give one a family"
        for key, addresses in (
            ("prerouting-address", self.prerouting_address),
            ("direct-address", self.direct_address),
        ):
            for address in addresses:
                if (
                    address.is_loopback
                    or address.is_unspecified
                    or address.is_multicast
                    or address.is_link_local
                ):
                    yield key, f"{address} is no ordinary address that other hosts reach"


def load_config(path: Path | None, overrides: Mapping[str, str] | None = None) -> ServerConfig:
    """Return the settings of a file (None: the defaults), overrides winning; raises SettingsError."""
    return read_settings(ServerConfig, path, overrides)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``, a flag for each setting outside of tables, and yurt-tunnel's."""
    add_setting_flags(parser, ServerConfig, DEFAULT_CONFIG)
    add_alias_flags(parser, "flags of yurt-tunnel-server", ALIASES)


def config_from(arguments: argparse.Namespace, aliased: Aliased | None = None) -> ServerConfig:
    """Return the settings that a command line asks for; raises SettingsError."""
    return settings_from_flags(
        arguments, ServerConfig, DEFAULT_CONFIG, aliased or read_aliases(arguments, ALIASES)
    )
