"""What an issued certificate says: whom it is for, and by which names and addresses."""

from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from certs.addresses import IPAddress
from certs.attested import ATTESTED
from certs.fingerprints import MAX_ROOTS
from certs.identity import Identity
from certs.requests import PublicKey
from certs.validity import BACK_DATED


@dataclass(frozen=True)
class Subject:
    """A certificate of ours, read."""

    certificate: x509.Certificate
    identity: Identity
    addresses: tuple[IPAddress, ...]
    dns_names: tuple[str, ...]

    @property
    def attested(self) -> bool:
        """Whether it is marked as one that a cluster vouches for, see `certs.attested`."""
        units = self.certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
        return any(each.value == ATTESTED for each in units)

    @property
    def issued(self) -> datetime:
        """When our authority issued it, to the second."""
        return self.certificate.not_valid_before_utc + BACK_DATED


def read_subject(data: bytes, issuer: x509.Certificate | None = None) -> Subject:
    """Read one certificate (PEM or DER) with one SPIFFE URI; raises ValueError.

    Where `issuer` is given, it must have signed it.
    """
    if data.startswith(b"-----BEGIN"):
        certificate = x509.load_pem_x509_certificate(data)
    else:
        certificate = x509.load_der_x509_certificate(data)
    if issuer is not None and not is_issued_by(certificate, issuer):
        raise ValueError("the certificate is not signed by the authority")
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise ValueError("the certificate names nobody") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise ValueError(f"the certificate carries {len(uris)} URIs, not exactly one")
    addresses = tuple(
        address
        for address in names.get_values_for_type(x509.IPAddress)
        if isinstance(address, IPv4Address | IPv6Address)
    )
    dns_names = tuple(names.get_values_for_type(x509.DNSName))
    return Subject(certificate, Identity.parse(uris[0]), addresses, dns_names)


def check_replacement(certificate: str, bundle: str, own: Identity, key: PublicKey | None) -> Subject:
    """Read a certificate (PEM) that the server gave to `own`, with the authority's (PEM).

    Raises ValueError for what its holder could not use in place of what it has: of another identity, another
    key than `key` (if one is given), or of none of these authorities.
    """
    subject = read_subject(certificate.encode())
    roots = x509.load_pem_x509_certificates(bundle.encode())
    if len(roots) > MAX_ROOTS:
        raise ValueError(f"it names {len(roots)} authorities")
    if not any(is_issued_by(subject.certificate, root) for root in roots):
        raise ValueError("the certificate is of none of its authorities")
    if subject.identity != own:
        raise ValueError(f"the certificate is for {subject.identity}")
    if key is not None and subject.certificate.public_key() != key:
        raise ValueError("the certificate is for another key")
    return subject


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the key of `issuer` signed `certificate`."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
