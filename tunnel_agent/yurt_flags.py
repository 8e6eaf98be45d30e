"""The flags of yurt-tunnel-agent, v0.6.0 to v1.2.0; docs/migrating-from-yurt-tunnel.md explains each."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from tunnel_daemon.program import EXIT_WRONG_USE, ProgramError
from tunnel_daemon.settings_aliases import Alias

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from ipaddress import IPv4Address, IPv6Address

_NO_CLUSTER = (
    "no cluster is asked: the server's address comes from the join line, or from --tunnelserver-addr"
)
_IDENTITY = "the certificate says who this node is; joining made it"
_NAME, _IP, _IDENTIFIERS = "node-name", "node-ip", "agent-identifiers"


def _log_level(verbosity: str) -> str:
    # klog: 4 and more is debugging.
    return "debug" if verbosity.isdigit() and int(verbosity[:4]) >= 4 else "info"


ALIASES = (
    Alias("cert-dir", key="state-dir"),
    Alias("tunnelserver-addr", key="servers", harmless=("",)),
    Alias("meta-host", key="health-address"),
    Alias("meta-port", key="health-port"),
    Alias("v", short="v", key="log-level", translate=_log_level),
    Alias(_IP, checked=_IDENTITY, harmless=("",)),
    Alias(_IDENTIFIERS, checked=_IDENTITY, harmless=("",)),
    Alias("apiserver-addr", unused=_NO_CLUSTER, harmless=("",)),
    Alias("kube-config", unused=_NO_CLUSTER, harmless=("",)),
)


def check_identity(
    given: Mapping[str, str], node: str, addresses: Collection[IPv4Address | IPv6Address]
) -> Iterator[str]:
    """Compare what is claimed, by flag, with the certificate; yield a warning for each claim without effect.

    Raises ProgramError where this would be run as another node than its operator believes.
    """
    for flag, value in given.items():
        if flag == _NAME:
            claims = [("host", value)]
        elif flag == _IP:
            claims = [("ip", value)]
        else:
            # Documented with "&"; its own validator wanted ",".
            claims = [
                (kind, text)
                for kind, _, text in (e.partition("=") for e in value.replace(",", "&").split("&"))
            ]
        for kind, text in claims:
            if kind == "host" and text != node:
                raise ProgramError(
                    f"--{flag} {value}: this machine's certificate is that of {node}: leave the flag "
                    f"out, or join again with a token for {text}",
                    EXIT_WRONG_USE,
                )
            if kind not in {"host", "ip", "ipv4", "ipv6"}:
                yield f"--{flag}: {kind} is not used: callers reach this node by its name and its addresses"
            elif kind != "host" and not _is_one_of(text, addresses):
                yield (
                    f"--{flag}: {text} is not in this machine's certificate, so callers do not reach it "
                    f"there: join again with a token made with --ip {text}"
                )


def _is_one_of(text: str, addresses: Collection[IPv4Address | IPv6Address]) -> bool:
    try:
        return ip_address(text) in addresses
    except ValueError:
        return False
