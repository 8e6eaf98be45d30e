"""A certificate of our own is read as its verifier will read it."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from certs.identity import Identity, Role
from certs.shown import shown_certificate
from certs.validity import Validity
from tests.tunnelctl.connect_server import Pki


def loader(identity: Path, authority: Path):
    def load(context: ssl.SSLContext) -> None:
        context.load_verify_locations(cafile=authority / "ca.crt")
        context.load_cert_chain(identity / "caller.crt", identity / "caller.key")

    return load


def test_who_it_is_and_until_when_also_if_that_is_over(tmp_path: Path) -> None:
    then = datetime.now(UTC) - timedelta(days=9)
    identity = Pki(tmp_path / "pki").identity(tmp_path / "me", life=timedelta(days=1), now=then)
    certificate = shown_certificate(loader(identity, identity))
    assert Identity.from_peer_certificate(certificate).role is Role.CALLER
    ends = Validity.from_peer_certificate(certificate).not_after
    assert abs(ends - (then + timedelta(days=1)).timestamp()) < 2


def test_another_authoritys(tmp_path: Path) -> None:
    mine, theirs = (Pki(tmp_path / name).identity(tmp_path / f"{name}-ci") for name in ("one", "two"))
    with pytest.raises(ssl.SSLCertVerificationError):
        shown_certificate(loader(mine, theirs))
