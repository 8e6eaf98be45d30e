"""Who a certificate speaks for: SPIFFE identities, and nothing else of the certificate.

Standard library only, because a running agent needs this and must not load `cryptography`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

# One label, and a whole name, as RFC 1123 and Kubernetes have them ("DNS-1123 subdomain").
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# The SPIFFE ID standard, section 2.1: letters are lower case, no port, no user, no percent-encoding.
_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LOOPBACK = frozenset(("localhost", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"))
"""As they stand in /etc/hosts, `localhost.localdomain` and the like too."""
_MAX_NAME = 253
_MAX_URI = 2048


class Role(StrEnum):
    """What the holder of a certificate may be; the first element of the SPIFFE path."""

    NODE = "node"
    SERVER = "server"
    CALLER = "caller"


@dataclass(frozen=True)
class Identity:
    """`spiffe://DOMAIN/ROLE/NAME`; raises ValueError when made of anything that has no such form."""

    domain: str
    role: Role
    name: str

    def __post_init__(self) -> None:
        check_domain(self.domain)
        check_name(self.name)

    @property
    def uri(self) -> str:
        """The one spelling of this identity; two identities are equal when their URIs are."""
        return f"spiffe://{self.domain}/{self.role.value}/{self.name}"

    def __str__(self) -> str:
        return self.uri

    @classmethod
    def parse(cls, uri: str) -> "Identity":
        """Take a URI apart; raises ValueError saying what is wrong with it."""
        if len(uri) > _MAX_URI:
            raise ValueError(f"a SPIFFE URI of {len(uri)} characters, more than {_MAX_URI}")
        scheme, separator, rest = uri.partition("://")
        parts = rest.split("/")
        if scheme != "spiffe" or not separator or len(parts) != 3:
            raise ValueError(f"{uri!r} is not of the form spiffe://DOMAIN/ROLE/NAME")
        domain, role, name = parts
        try:
            known = Role(role)
        except ValueError:
            raise ValueError(f"{uri!r} has the unknown role {role!r}: node, server or caller") from None
        return cls(domain, known, name)

    @classmethod
    def from_peer_certificate(cls, cert: Mapping[str, object] | None) -> "Identity":
        """Read `ssl.SSLObject.getpeercert()`; only meaningful when the chain has been verified.

        Exactly one URI is required (X.509-SVID standard, section 2): with two, which one counts would be
        up to the reader. Raises ValueError also for None and `{}`, which is how `ssl` says "no certificate"
        and "not verified".
        """
        if not cert:
            raise ValueError("no verified certificate")
        names = cert.get("subjectAltName", ())
        assert isinstance(names, tuple)
        uris = [value for kind, value in names if kind == "URI"]
        if len(uris) != 1:
            raise ValueError(f"the certificate carries {len(uris)} URIs, not exactly one")
        return cls.parse(uris[0])


def check_name(name: str) -> None:
    """Raise ValueError unless `name` is a DNS-1123 subdomain of at most 253 characters."""
    if len(name) > _MAX_NAME:
        raise ValueError(f"a name of {len(name)} characters, more than {_MAX_NAME}")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a name: use lower-case letters, digits, '-' and '.', "
            "each part beginning and ending with a letter or digit, at most 63 long"
        )


def check_node_name(name: str) -> None:
    """Raise ValueError unless callers can reach a node by `name`: it is no address, nor means this very host.

    What ends in a number is read as an IPv4 address (URL Standard, "ends in a number checker"); `localhost`
    and what is under it is everybody's own loopback (RFC 6761, 6.3).
    """
    check_name(name)
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        raise ValueError(
            f"{name!r} is not a name for a node: a name whose last part is a number is taken for an address; "
            "one like edge-7 is not"
        )
    if labels[-1] == "localhost" or labels[0] in _LOOPBACK:
        raise ValueError(
            f"{name!r} is not a name for a node: it means every host itself; give the node one of its own"
        )


def check_domain(domain: str) -> None:
    """Raise ValueError unless `domain` can be a SPIFFE trust domain."""
    if not _DOMAIN.fullmatch(domain):
        raise ValueError(
            f"{domain!r} is not a trust domain: use lower-case letters, digits, '.', '-' and '_', at most 255"
        )
