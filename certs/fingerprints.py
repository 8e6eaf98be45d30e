"""Naming the certificates of a PEM bundle: SHA-256 over each one's DER, in hexadecimal.

Standard library only: a running agent says by them which roots it trusts.
"""

import hashlib
import re
import ssl

MAX_ROOTS = 8
"""Roots that a bundle of ours may have; there are two while the authority is rolled."""

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\s.*?-----END CERTIFICATE-----", re.DOTALL)
_FORM = re.compile(r"[0-9a-f]{64}")


def fingerprints(bundle: str) -> tuple[str, ...]:
    """Return the fingerprint of each certificate, in their order; raises ValueError for bad PEM."""
    found = (ssl.PEM_cert_to_DER_cert(each) for each in _CERTIFICATE.findall(bundle))
    return tuple(hashlib.sha256(der).hexdigest() for der in found)


def is_fingerprint(text: str) -> bool:
    """Whether `text` has the form of one."""
    return _FORM.fullmatch(text) is not None
