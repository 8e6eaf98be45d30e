"""The authority: its key, and the three kinds of certificate it signs.

What a certificate may be used for is fixed here (RFC 5280, section 4.2.1): the CA signs certificates of one
level only; servers serve TLS and, towards other replicas, are clients; nodes and callers are clients only, so
that the address in a node's certificate cannot be used to pose as a server. Names are SPIFFE URIs.

While the authority is rolled (`certs.roll`) there are two roots. Both are trusted; the one that `ca.key`
belongs to issues.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.addresses import IPAddress
from certs.attested import ATTESTED
from certs.files import StateError
from certs.fingerprints import fingerprints
from certs.identity import Identity, Role, check_domain
from certs.pins import ca_hash
from certs.requests import PublicKey, key_pem, load_key, new_key
from certs.state import Change, State
from certs.subjects import is_issued_by
from certs.validity import BACK_DATED

CA_KEY, CA_CERTIFICATE = "ca.key", "ca.crt"
CA_LIFE = timedelta(days=3650)
SERVER_LIFE = timedelta(days=365)
NODE_LIFE = timedelta(days=90)
"""The default; see the server's configuration."""


class Authority:
    """An open authority. Signing takes a fraction of a millisecond; making one takes no longer."""

    def __init__(
        self,
        key: ec.EllipticCurvePrivateKey,
        certificate: x509.Certificate,
        domain: str,
        others: Sequence[x509.Certificate] = (),
    ) -> None:
        self._key = key
        self.certificate = certificate
        """The root that issues."""
        self.roots = (certificate, *others)
        """All that are trusted, the issuing one first."""
        self.domain = domain

    @classmethod
    def make(cls, domain: str, now: datetime | None = None) -> tuple["Authority", dict[str, bytes]]:
        """Make a new authority, and the files that hold it; raises ValueError for a bad domain."""
        check_domain(domain)
        now = now or datetime.now(UTC)
        key = new_key()
        # Two authorities must differ in their names, or OpenSSL tries the wrong one of a bundle.
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "edge-tunnel"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"edge-tunnel CA {identifier.digest.hex()[:8]}"),
            ]
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACK_DATED)
            .not_valid_after(now + CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs=True), critical=True)
            .add_extension(identifier, critical=False)
            # X.509-SVID, section 4.1: the trust domain, without a path. It is also where we keep it.
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{domain}")]),
                critical=False,
            )
        )
        certificate = builder.sign(key, hashes.SHA256())
        files = {CA_KEY: key_pem(key), CA_CERTIFICATE: certificate.public_bytes(Encoding.PEM)}
        return cls(key, certificate, domain), files

    @classmethod
    def create(cls, state: State, domain: str) -> "Authority":
        """Make one in `state`; raises StateError if there is one, and ValueError for a bad domain."""
        authority, files = cls.make(domain)

        def write(change: Change) -> None:
            if state.exists(CA_KEY) or state.exists(CA_CERTIFICATE):
                raise StateError(f"{state} already has an authority")
            change.write(files)

        state.change(write)
        return authority

    @classmethod
    def load(cls, state: State) -> "Authority":
        """Open the one in `state`; raises StateError, also where key and certificate are no pair."""
        for name in (CA_CERTIFICATE, CA_KEY):
            if not state.exists(name):
                raise StateError(f"{state} has no {name}: run `tunnelctl init`")
        place = state.place(CA_CERTIFICATE)
        try:
            roots = x509.load_pem_x509_certificates(state.read(CA_CERTIFICATE))
            domains = {_domain(root) for root in roots}
            (domain,) = domains
        except (ValueError, x509.ExtensionNotFound):
            raise StateError(f"{place} is not an authority's certificate: restore it from a backup") from None
        try:
            key = load_key(state.read_secret(CA_KEY))
        except ValueError as error:
            raise StateError(f"{state.place(CA_KEY)} is {error}: restore it from a backup") from None
        own = [root for root in roots if root.public_key() == key.public_key()]
        if not own:
            raise StateError(
                f"{state.place(CA_KEY)} does not belong to {place}: restore both from one backup"
            )
        return cls(key, own[0], domain, [root for root in roots if root is not own[0]])

    @cached_property
    def pem(self) -> str:
        """The CA bundle for clients: PEM, every root that is trusted."""
        return "".join(root.public_bytes(Encoding.PEM).decode() for root in self.roots)

    @cached_property
    def fingerprints(self) -> tuple[str, ...]:
        """Of all roots, the issuing one first; see `certs.fingerprints`."""
        return fingerprints(self.pem)

    def issuer_of(self, certificate: x509.Certificate) -> str:
        """Return the fingerprint of the root that signed `certificate`, empty if none of ours did."""
        for root, fingerprint in zip(self.roots, self.fingerprints, strict=True):
            if is_issued_by(certificate, root):
                return fingerprint
        return ""

    @property
    def hash(self) -> str:
        """The hash for join lines, see `certs.pins`."""
        return ca_hash(self.certificate)

    def issue_server(
        self,
        key: PublicKey,
        name: str,
        addresses: Sequence[IPAddress],
        dns_names: Sequence[str],
        *,
        life: timedelta = SERVER_LIFE,
        now: datetime | None = None,
    ) -> str:
        """Return a server's certificate (PEM) for what agents dial; raises ValueError, StateError."""
        names = [*map(x509.IPAddress, addresses), *map(x509.DNSName, dns_names)]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._issue(key, Identity(self.domain, Role.SERVER, name), names, usages, life=life, now=now)

    def issue_node(
        self,
        key: PublicKey,
        name: str,
        addresses: Sequence[IPAddress],
        *,
        life: timedelta = NODE_LIFE,
        now: datetime | None = None,
        attested: bool = False,
    ) -> str:
        """Return a node's certificate (PEM) with the addresses it holds; raises ValueError, StateError.

        `attested` marks it as one that a cluster vouches for, see `certs.attested`.
        """
        identity = Identity(self.domain, Role.NODE, name)
        names = [x509.IPAddress(address) for address in addresses]
        usages, unit = [ExtendedKeyUsageOID.CLIENT_AUTH], ATTESTED if attested else ""
        return self._issue(key, identity, names, usages, life=life, now=now, unit=unit)

    def issue_caller(
        self, key: PublicKey, name: str, *, life: timedelta = SERVER_LIFE, now: datetime | None = None
    ) -> str:
        """Return a caller's certificate (PEM); raises ValueError, StateError."""
        identity = Identity(self.domain, Role.CALLER, name)
        return self._issue(key, identity, [], [ExtendedKeyUsageOID.CLIENT_AUTH], life=life, now=now)

    def _issue(
        self,
        key: PublicKey,
        identity: Identity,
        names: Sequence[x509.GeneralName],
        usages: Sequence[x509.ObjectIdentifier],
        *,
        life: timedelta,
        now: datetime | None,
        unit: str = "",
    ) -> str:
        now = now or datetime.now(UTC)
        expires = min(now + life, self.certificate.not_valid_after_utc)
        if expires <= now:
            raise StateError("the authority's certificate has expired: begin anew in another --state-dir")
        subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"edge-tunnel {identity.role.value}")]
        if unit:
            subject.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit))
        if len(identity.name) <= 64:  # X.520's bound; the name that counts is in the URI
            subject.append(x509.NameAttribute(NameOID.COMMON_NAME, identity.name))
        uri = x509.UniformResourceIdentifier(identity.uri)
        issuer = self._key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACK_DATED)
            .not_valid_after(expires)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName([uri, *names]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def _domain(root: x509.Certificate) -> str:
    names = root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uri.removeprefix("spiffe://")


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
