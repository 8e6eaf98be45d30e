"""Reading an issued certificate."""

from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from certs.authority import Authority
from certs.requests import new_key
from certs.subjects import is_issued_by, read_subject

AUTHORITY = Authority.make("d")[0]


def test_all_of_it_is_read():
    pem = AUTHORITY.issue_server(new_key().public_key(), "s", [ip_address("203.0.113.5")], ["a.example"])
    subject = read_subject(pem.encode(), AUTHORITY.certificate)
    assert subject.identity.uri == "spiffe://d/server/s"
    assert subject.addresses == (ip_address("203.0.113.5"),)
    assert subject.dns_names == ("a.example",)


def test_the_issuer_counts():
    other = Authority.make("d")[0]
    pem = AUTHORITY.issue_node(new_key().public_key(), "a", ()).encode()
    with pytest.raises(ValueError, match="not signed by the authority"):
        read_subject(pem, other.certificate)
    assert is_issued_by(x509.load_pem_x509_certificate(pem), AUTHORITY.certificate)
    assert not is_issued_by(AUTHORITY.certificate, other.certificate)


def certificate(*names):
    key, name = new_key(), x509.Name([])
    builder = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(AUTHORITY.certificate.not_valid_before_utc)
        .not_valid_after(AUTHORITY.certificate.not_valid_after_utc)
    )  # fmt: skip
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_who_speaks_for_nobody():
    uri = x509.UniformResourceIdentifier
    for pem, why in [
        (certificate(), "names nobody"),
        (certificate(x509.DNSName("a")), "0 URIs"),
        (certificate(uri("spiffe://d/node/a"), uri("spiffe://d/node/b")), "2 URIs"),
        (certificate(uri("spiffe://d/other/a")), "unknown role"),
        (b"x", r"."),
    ]:
        with pytest.raises(ValueError, match=why):
            read_subject(pem)
