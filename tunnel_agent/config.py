"""The agent's settings: what may stand in agent.toml, with units and defaults."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from certs.identity import check_node_name
from tunnel_agent.allow_list import Rule
from tunnel_agent.endpoint import Endpoint
from tunnel_agent.proxy import ProxyChoice
from tunnel_daemon.logs import LogFormat, LogLevel
from tunnel_daemon.settings import between, setting

DEFAULT_CONFIG = Path("/etc/edge-tunnel/agent.toml")
DEFAULT_STATE = Path("/var/lib/edge-tunnel-agent")

DEFAULT_ALLOW = (Rule.parse("loopback:*"), Rule.parse("node:*"))

MIB = 1024 * 1024


def _check_node(name: str) -> None:
    if name:
        check_node_name(name)


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """Everything that an agent's operator decides. Joining decides the rest (see `credentials`)."""

    state_dir: Path = setting(
        DEFAULT_STATE, doc="where `tunnel-agent join` keeps key, certificate and servers"
    )
    servers: tuple[Endpoint, ...] = setting(
        (),
        doc="servers to dial, HOST:PORT, instead of those that joining stored; tried in this order",
        live=True,
    )
    proxy: ProxyChoice = setting(
        ProxyChoice(),
        doc="HTTP proxy to reach the server through; empty: the one that `join --proxy` named, or else "
        "HTTPS_PROXY and NO_PROXY of the environment decide; none: no proxy, whatever they say",
        secret=True,
        live=True,
    )
    openssl_only: bool = setting(
        False,
        doc="leave this end's links to OpenSSL altogether: slower with bulk, but nothing else encrypts them, "
        "where that is a rule (FIPS)",
    )
    allow: tuple[Rule, ...] = setting(
        DEFAULT_ALLOW,
        doc="what may be dialled, WHERE:PORTS; `loopback`, `node` (the addresses in this agent's "
        "certificate; attested in a cluster, those that this machine has), an address, a network, a host "
        "name; ports: *, 80, 8000-8100, with commas",
        live=True,
    )
    node_name: str = setting(
        "",
        doc="the node that this agent must be: a certificate of another one is not used",
        check=_check_node,
    )
    service_account_token: Path | None = setting(
        None,
        doc="file with a token of this pod's ServiceAccount, read anew each time: with it the agent gets "
        "its certificate by itself, instead of by `tunnel-agent join`",
    )
    ca_file: Path | None = setting(
        None, doc="file with the authority's certificates, to verify the server with when that is done"
    )
    connect_timeout: float = setting(
        15.0,
        doc="for one try at one server: TCP, proxy and TLS",
        unit="seconds",
        check=between(0.1),
        live=True,
    )
    backoff_min: float = setting(
        1.0,
        doc="ceiling of the first random delay between tries; it doubles",
        unit="seconds",
        check=between(0.1),
        live=True,
    )
    backoff_max: float = setting(60.0, doc="... up to this", unit="seconds", check=between(0.1), live=True)
    failover_delay: float = setting(
        30.0,
        doc="with several servers: how long open connections whose link was lost wait for theirs, which "
        "alone can go on with them, while another one answers; not beyond what it keeps them for itself",
        unit="seconds",
        check=between(0, 86_400),
        live=True,
    )
    useful_after: float = setting(
        10.0,
        doc="a link that lived this long starts the back-off again at backoff-min",
        unit="seconds",
        check=between(0),
        live=True,
    )
    duplicate_delay: float = setting(
        60.0,
        doc="delay after the server said that another machine holds this certificate, or that it is revoked",
        unit="seconds",
        check=between(1),
        live=True,
    )
    refresh_interval: float = setting(
        3600.0,
        doc="between two questions to the server, about: which roots to trust, where servers are, whether "
        "to renew at once",
        unit="seconds",
        check=between(1),
    )
    dial_timeout: float = setting(
        10.0, doc="for one target: name resolution and TCP", unit="seconds", check=between(0.1), live=True
    )
    max_dials_in_flight: int = setting(
        512,
        doc="dials to targets at once, a quarter of them to one target; more wait for their turn",
        check=between(1),
        live=True,
    )
    links: int = setting(
        1,
        doc="kept to the server at once; from 2 on, bulk goes apart from the rest, and what a lost one "
        "carried goes on on another at once",
        check=between(1, 4),
    )
    max_streams: int = setting(2048, doc="open connections to targets at once", check=between(1))
    memory_budget: int = setting(
        256 * MIB,
        doc="for the bytes of all streams on their way, 128 KiB for each at least; new streams are refused "
        "beyond",
        unit="bytes",
        check=between(4 * MIB),
        live=True,
    )
    health_address: str = setting("127.0.0.1", doc="where /healthz, /readyz and /status are served")
    health_port: int = setting(10266, doc="its port; 0: not served", check=between(0, 65535))
    log_level: LogLevel = setting("info", doc="least level that is logged", live=True)
    log_format: LogFormat = setting("text", doc="lines of text, or of JSON", live=True)

    def cross_check(self) -> Iterator[tuple[str, str]]:
        """Yield (key, problem) for what is wrong between settings."""
        if self.backoff_max < self.backoff_min:
            yield "backoff-max", f"{self.backoff_max:g} s is below backoff-min, {self.backoff_min:g} s"
        if self.service_account_token is None:
            if self.ca_file is not None:
                yield "ca-file", "is used with service-account-token only; `join` has its --ca-hash"
            return
        for key, given in (
            ("ca-file", self.ca_file),
            ("node-name", self.node_name),
            ("servers", self.servers),
        ):
            if not given:
                yield "service-account-token", f"needs {key}, too"
