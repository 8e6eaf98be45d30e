"""Which HTTP proxy leads to the server: the setting's, the environment's, or none.

Only `http://` proxies: the connection to the proxy itself is then in clear, and carries nothing but the
CONNECT (`proxy_tunnel`) and the tunnel's own TLS. An `https://` proxy would need TLS within TLS for no gain
in secrecy but the proxy's password.
"""

from __future__ import annotations

import base64
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import unquote, urlsplit

from certs.addresses import format_endpoint
from tunnel_agent.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

DIRECT = "none"  # the value of `proxy` that ignores the environment


class ProxyError(OSError):
    """The proxy did not open the way; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy and the credentials for it. Printing it shows no password."""

    FORM: ClassVar[str] = 'a proxy like "http://user:password@proxy.example:3128"'

    endpoint: Endpoint
    authorization: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """Read `http://[user:password@]host:port`, percent-encoded; ValueError never shows the password."""
        try:
            parts = urlsplit(text if "://" in text else f"http://{text}")
            host, port = parts.hostname, parts.port or 80  # .port raises where it is no port
        except ValueError:
            raise ValueError(f"the proxy is not {cls.FORM}") from None
        if parts.scheme != "http":
            raise ValueError(
                f"the proxy's scheme is {parts.scheme}://, but only http:// proxies are supported"
            )
        if not host or parts.path not in {"", "/"} or parts.query or parts.fragment:
            raise ValueError(f"the proxy is not {cls.FORM}")
        authorization = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            authorization = "Basic " + base64.b64encode(pair).decode("ascii")
        return cls(Endpoint.parse(format_endpoint(host, port)), authorization)

    def __str__(self) -> str:
        return f"http://{self.endpoint}"


@dataclass(frozen=True, slots=True)
class ProxyChoice:
    """The setting: a proxy, none whatever the environment says, or what the environment says."""

    FORM: ClassVar[str] = f'{Proxy.FORM} (http:// only), or "{DIRECT}", or "" for what the environment says'

    text: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> ProxyChoice:
        """Read the setting; ValueError as Proxy.parse."""
        if text not in {"", DIRECT}:
            Proxy.parse(text)
        return cls(text)

    def __str__(self) -> str:
        return self.text if self.text in {"", DIRECT} else str(Proxy.parse(self.text))


def choose_proxy(setting: str, environment: Mapping[str, str], server: Endpoint) -> Proxy | None:
    """Return the proxy for `server`: the setting's, else HTTPS_PROXY's unless NO_PROXY names the server.

    ValueError if the environment's proxy can't be used.
    """
    if setting == DIRECT:
        return None
    if setting:
        return Proxy.parse(setting)
    text = environment_proxy(environment)
    if not text or bypasses(environment.get("no_proxy") or environment.get("NO_PROXY") or "", server):
        return None
    try:
        return Proxy.parse(text)
    except ValueError as error:
        raise ValueError(f"HTTPS_PROXY: {error}") from None


def environment_proxy(environment: Mapping[str, str]) -> str:
    """Return what the environment names as proxy; "" for none."""
    return environment.get("https_proxy") or environment.get("HTTPS_PROXY") or ""


def bypasses(no_proxy: str, server: Endpoint) -> bool:
    """Whether NO_PROXY names the server: `*`, a domain, an address, a network; each perhaps with `:port`."""
    host = server.host.lower().removesuffix(".")
    for raw in no_proxy.replace(",", " ").split():
        entry = raw.lower()
        if entry == "*":
            return True
        name, colon, port = entry.rpartition(":")
        if colon and port.isdigit() and (":" not in name or name.endswith("]")):
            if port != str(server.port):
                continue
            entry = name
        entry = entry.strip("[]").removeprefix("*").lstrip(".")
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False):
                return True
        except ValueError:
            if entry and (host == entry or host.endswith("." + entry)):
                return True
    return False
