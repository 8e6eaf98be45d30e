"""Keys and certificate requests: made on the edge, read with suspicion by the server.

A key never leaves the machine that made it. Of a request only the public key counts, and the proof that the
sender holds it; names, extensions and anything else in it are the sender's wishes and are not read.
"""

import hashlib

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

MAX_REQUEST = 16 * 1024
"""Bytes of PEM; a request with an RSA key of 8192 bits takes a quarter."""

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


class RequestError(ValueError):
    """The request cannot be used; the message is one line saying why."""


def new_key() -> ec.EllipticCurvePrivateKey:
    """Make an ECDSA P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the key as unencrypted PKCS #8 PEM: for a file of mode 0600 only."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Read what `key_pem` wrote; raises ValueError."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("not an unencrypted private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an elliptic-curve key")  # noqa: TRY004 - a bad file, not a bad call
    return key


def make_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a PEM request for `key`. It claims nothing: the names come from the token."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def read_request(pem: bytes) -> PublicKey:
    """Return the public key of a request whose signature proves that its sender holds the key.

    Accepts ECDSA P-256, Ed25519, and RSA of 2048 to 8192 bits. Raises RequestError.
    """
    if len(pem) > MAX_REQUEST:
        raise RequestError(f"the certificate request has {len(pem)} bytes, more than {MAX_REQUEST}")
    try:
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise RequestError(
            "the certificate request is not PKCS #10 in PEM with a known kind of key"
        ) from None
    accepted = _accepted(key)
    try:
        proven = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm):
        proven = False
    if not proven:
        raise RequestError("the certificate request is not signed by the key it carries")
    return accepted


def _accepted(key: object) -> PublicKey:
    # Bounds come before the signature is checked: an odd RSA key makes that arbitrarily slow.
    match key:
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, ec.SECP256R1):
            return key
        case ed25519.Ed25519PublicKey():
            return key
        case rsa.RSAPublicKey() if 2048 <= key.key_size <= 8192 and key.public_numbers().e == 65537:
            return key
    raise RequestError("the key is none of ECDSA P-256, Ed25519, and RSA of 2048 to 8192 bits with e = 65537")


def key_digest(key: PublicKey) -> str:
    """Return SHA-256 over the key's SubjectPublicKeyInfo in DER, in hexadecimal."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
