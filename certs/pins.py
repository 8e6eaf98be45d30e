"""The hash by which a join line names its authority: of the CA's public key, as kubeadm's has it.

`sha256:` and the hexadecimal SHA-256 of the certificate's SubjectPublicKeyInfo in DER. It survives that the
CA's certificate is renewed with the same key, and openssl can compute it.
"""

import hashlib
import re
from hmac import compare_digest

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_FORM = re.compile(r"sha256:[0-9a-f]{64}")


def check_ca_hash(text: str) -> str:
    """Return the hash in its canonical form; raises ValueError."""
    canonical = text.strip().lower()
    if not _FORM.fullmatch(canonical):
        raise ValueError(f"{text!r} is not a CA hash: it is `sha256:` and 64 hexadecimal digits")
    return canonical


def ca_hash(certificate: x509.Certificate) -> str:
    """Return the hash of one certificate's public key."""
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(key).hexdigest()}"


def find_ca(bundle: bytes, wanted: str) -> tuple[x509.Certificate | None, list[str]]:
    """Return the certificate in a PEM bundle whose hash is `wanted`, if any, and all hashes seen.

    Raises ValueError when the bundle is no PEM. Compares in constant time.
    """
    found = None
    seen = []
    for certificate in x509.load_pem_x509_certificates(bundle):
        try:
            seen.append(ca_hash(certificate))
        except UnsupportedAlgorithm:
            raise ValueError("a certificate has a key of no known kind") from None
        if compare_digest(seen[-1], wanted):
            found = certificate
    return found, seen
