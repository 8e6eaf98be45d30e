"""Requests, made by us and by openssl, honest and forged."""

import hashlib
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from certs.requests import (
    MAX_REQUEST,
    RequestError,
    key_digest,
    key_pem,
    load_key,
    make_request,
    new_key,
    read_request,
)


def openssl(*args, data=None):
    return subprocess.run(["openssl", *args], input=data, capture_output=True, check=True).stdout


def openssl_request(tmp_path, *algorithm):
    key = tmp_path / "any.key"
    openssl("genpkey", *algorithm, "-out", key)
    return openssl("req", "-new", "-key", key, "-subj", "/CN=root")


def test_openssl_accepts_what_we_make():
    text = openssl("req", "-verify", "-noout", "-text", data=make_request(new_key())).decode()
    assert "prime256v1" in text
    assert "Subject: \n" in text.replace("Subject:\n", "Subject: \n")


def test_a_key_survives_its_file():
    key = new_key()
    assert load_key(key_pem(key)).private_numbers() == key.private_numbers()


@pytest.mark.parametrize("pem", [b"", b"nonsense", key_pem(new_key())[:-40]])
def test_not_a_key(pem):
    with pytest.raises(ValueError, match="not an unencrypted private key"):
        load_key(pem)


def test_a_key_of_another_kind():
    with pytest.raises(ValueError, match="elliptic"):
        load_key(openssl("genpkey", "-algorithm", "ed25519"))


@pytest.mark.parametrize(
    "algorithm",
    [
        ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
        ("-algorithm", "ed25519"),
        ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
    ],
)
def test_keys_that_serve(tmp_path, algorithm):
    key = read_request(openssl_request(tmp_path, *algorithm))
    der = openssl("pkey", "-in", tmp_path / "any.key", "-pubout", "-outform", "DER")
    assert key_digest(key) == hashlib.sha256(der).hexdigest()


@pytest.mark.parametrize(
    "algorithm",
    [
        ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
        ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"),
        ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"),
        ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-pkeyopt", "rsa_keygen_pubexp:3"),
        ("-algorithm", "ed448"),
    ],
)
def test_keys_that_do_not(tmp_path, algorithm):
    with pytest.raises(RequestError, match="key"):
        read_request(openssl_request(tmp_path, *algorithm))


def test_a_key_that_the_sender_does_not_hold():
    # The public key of one, the signature of another: PKCS #10 lets anybody put that together.
    mine, theirs = new_key(), new_key()
    request = x509.load_pem_x509_csr(make_request(mine))
    forged = request.public_bytes(Encoding.DER).replace(
        mine.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        theirs.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
    )
    pem = x509.load_der_x509_csr(forged).public_bytes(Encoding.PEM)
    with pytest.raises(RequestError, match="not signed by the key"):
        read_request(pem)


def test_a_request_beyond_bounds():
    with pytest.raises(RequestError, match="more than"):
        read_request(b" " * (MAX_REQUEST + 1))
    key = rsa.generate_private_key(65537, 2048)
    names = x509.SubjectAlternativeName([x509.DNSName(f"a{i}.example") for i in range(2000)])
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(names, critical=False)
    )
    with pytest.raises(RequestError, match="more than"):
        read_request(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))


@pytest.mark.parametrize(
    "pem", [b"", b"x", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----"]
)
def test_not_a_request(pem):
    with pytest.raises(RequestError, match="not PKCS #10"):
        read_request(pem)


REQUEST = make_request(new_key())


@given(st.integers(0, len(REQUEST) - 1), st.integers(0, 255))
def test_a_damaged_request_is_refused_or_is_still_the_same_key(position, byte):
    damaged = bytearray(REQUEST)
    damaged[position] = byte
    try:
        key = read_request(bytes(damaged))
    except RequestError:
        return
    assert key == read_request(REQUEST)
