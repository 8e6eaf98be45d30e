"""The hash of an authority, as openssl computes it."""

import subprocess

import pytest

from certs.authority import Authority
from certs.pins import ca_hash, check_ca_hash, find_ca


def test_it_is_what_openssl_computes():
    authority, files = Authority.make("d")
    command = "openssl x509 -pubkey -noout | openssl pkey -pubin -outform DER | openssl dgst -sha256 -r"
    found = subprocess.run(command, shell=True, input=files["ca.crt"], capture_output=True, check=True).stdout
    assert ca_hash(authority.certificate) == authority.hash == f"sha256:{found.decode().split()[0]}"


def test_the_right_one_of_a_bundle_is_found():
    one, other, absent = (Authority.make("d")[0] for _ in range(3))
    bundle = (one.pem + other.pem).encode()
    assert find_ca(bundle, other.hash) == (other.certificate, [one.hash, other.hash])
    assert find_ca(bundle, absent.hash) == (None, [one.hash, other.hash])


@pytest.mark.parametrize(
    "bundle", [b"", b"<html>", b"-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n"]
)
def test_not_a_bundle(bundle):
    with pytest.raises(ValueError, match=r"."):
        find_ca(bundle, "sha256:" + "0" * 64)


def test_forms():
    assert check_ca_hash(" SHA256:" + "AB" * 32) == "sha256:" + "ab" * 32
    for text in ("", "ab" * 32, "sha256:" + "ab" * 31, "sha1:" + "ab" * 32, "sha256:" + "xy" * 32):
        with pytest.raises(ValueError, match="64 hexadecimal digits"):
            check_ca_hash(text)
