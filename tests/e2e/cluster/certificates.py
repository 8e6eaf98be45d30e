"""Certificates of a cluster that lives as long as a test, and kubeconfigs that carry them."""

import base64
import datetime
import ipaddress
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


class Authority:
    """One certificate authority, whose files are in one directory; `ca` is its own certificate."""

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        # kube-controller-manager and metrics-server want it to be a whole one.
        usage = x509.KeyUsage(True, False, True, False, False, True, True, False, False)
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=True, path_length=None), True),
            (usage, True),
            (x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), False),
        ]
        made = self._sign(self._name, self._key.public_key(), extensions)
        self.pair = _write(directory / "ca", made, self._key)
        self.ca = self.pair.certificate

    def issue(
        self,
        file: str,
        name: str,
        *,
        groups: Sequence[str] = (),
        sans: Sequence[str] = (),
        server: bool = False,
    ) -> Pair:
        """A certificate for a client, which is the user `name` in these groups, or for a server."""
        key = ec.generate_private_key(ec.SECP256R1())
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (x509.ExtendedKeyUsage([purpose]), False),
        ]
        if sans:
            extensions.append((x509.SubjectAlternativeName([_san(each) for each in sans]), False))
        made = self._sign(_name(name, groups), key.public_key(), extensions)
        return _write(self.directory / file, made, key)

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        extensions: Sequence[tuple[x509.ExtensionType, bool]],
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(
            self._name, subject, key, x509.random_serial_number(), now - _DAY, now + 7 * _DAY
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())


def signing_key(path: Path) -> Path:
    """A key for ServiceAccount tokens; RS256 is what every reader of them knows."""
    _private(path, _pem(rsa.generate_private_key(65537, 2048)))
    return path


def kubeconfig(
    path: Path, server: str, ca: Path, *, pair: Pair | None = None, token: str | None = None
) -> Path:
    """Write one that stands for itself: nothing in it is a path. JSON is YAML."""
    user: dict[str, str] = {}
    if pair is not None:
        user["client-certificate-data"] = _encoded(pair.certificate)
        user["client-key-data"] = _encoded(pair.key)
    if token is not None:
        user["token"] = token
    cluster = {"server": server, "certificate-authority-data": _encoded(ca)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    _private(path, json.dumps(config).encode())
    return path


def _name(name: str, groups: Sequence[str] = ()) -> x509.Name:
    organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*organizations, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _san(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _write(stem: Path, certificate: x509.Certificate, key: CertificateIssuerPrivateKeyTypes) -> Pair:
    pair = Pair(stem.with_name(f"{stem.name}.crt"), stem.with_name(f"{stem.name}.key"))
    pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    _private(pair.key, _pem(key))
    return pair


def _pem(key: CertificateIssuerPrivateKeyTypes) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _private(path: Path, content: bytes) -> None:
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
