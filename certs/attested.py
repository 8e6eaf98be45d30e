"""The mark of a certificate that was issued because a cluster vouches for a node, and not for a join token.

It is good only as long as the Node is that it was issued for, and carries no address. Standard library only:
the agent reads it too.
"""

from collections.abc import Mapping

ATTESTED = "attested"
"""The subject's organizational unit."""


def is_attested(certificate: Mapping[str, object]) -> bool:
    """Whether a certificate, as `ssl.SSLObject.getpeercert()` gives it, has the mark."""
    subject = certificate.get("subject", ())
    assert isinstance(subject, tuple)
    return any(("organizationalUnitName", ATTESTED) in names for names in subject)
