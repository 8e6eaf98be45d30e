"""Bounds of what agents and callers may make the server hold or wait for: the table `[limits]`."""

from dataclasses import dataclass

from tunnel_daemon.settings import between, setting

MIB = 1024 * 1024

_POSITIVE = between(0.001)
_COUNT = between(1, 1_000_000)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerLimits:
    """Every bound, with its unit."""

    handshakes_in_flight: int = setting(
        128, doc="TLS handshakes at once; further agents wait in the backlog", check=_COUNT
    )
    handshake_timeout: float = setting(
        10.0,
        doc="from a connection on tunnel-port to the end of its TLS handshake",
        unit="seconds",
        check=_POSITIVE,
    )
    links_per_node: int = setting(
        8,
        doc="links that one node may hold: twice its `links` while its certificate is renewed",
        check=_COUNT,
        live=True,
    )
    streams_per_session: int = setting(10_000, doc="calls open at once through one node", check=_COUNT)
    calls: int = setting(
        20_000, doc="calls open at once in all; further callers are reset", check=_COUNT, live=True
    )
    open_timeout: float = setting(
        15.0,
        doc="from a call to the answer of the agent that dials its target",
        unit="seconds",
        check=_POSITIVE,
        live=True,
    )
    away_wait: float = setting(
        5.0,
        doc="how long a call waits for a node that is away to come back; 0: not at all",
        unit="seconds",
        check=between(0),
        live=True,
    )
    drain_timeout: float = setting(
        5.0,
        doc="how long open calls go on after SIGTERM before they are reset; new ones are refused meanwhile",
        unit="seconds",
        check=between(0, 86_400),
        live=True,
    )
    handover_timeout: float = setting(
        3600.0,
        doc="how long open calls go on where another server has taken over (`tunnel-server --take-over`), "
        "which serves the new ones",
        unit="seconds",
        check=between(0, 86_400),
        live=True,
    )
    resume_grace: float = setting(
        90.0,
        doc="how long open calls wait for the agent to come back when its link is lost, in whole seconds; "
        "0: they are reset at once",
        unit="seconds",
        check=between(0, 86_400),
    )
    resume_grace_pooled: float = setting(
        10.0,
        doc="the same for TLS connections whose ClientHello offers HTTP/2, as kube-apiserver's: each new "
        "request on them would wait too",
        unit="seconds",
        check=between(0, 86_400),
    )
    memory_budget: int = setting(
        1024 * MIB,
        doc="for bytes of all calls on their way, granted or kept; new calls are refused beyond",
        unit="bytes",
        check=between(4 * MIB),
        live=True,
    )
