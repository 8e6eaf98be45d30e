"""What the authority signs, as openssl sees it."""

import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509

from certs.authority import BACK_DATED, Authority
from certs.files import StateDirectory, StateError
from certs.identity import Identity
from certs.requests import key_pem, new_key, read_request

ADDRESSES = (ip_address("192.168.2.143"), ip_address("fd00::1"))


@pytest.fixture
def state(tmp_path):
    return StateDirectory.create(tmp_path / "state")


@pytest.fixture
def authority(state):
    return Authority.create(state, "example.org")


def verify(tmp_path, authority, pem, *options):
    (tmp_path / "ca.pem").write_text(authority.pem)
    (tmp_path / "leaf.pem").write_text(pem)
    command = [
        "openssl",
        "verify",
        "-x509_strict",
        "-CAfile",
        tmp_path / "ca.pem",
        *options,
        tmp_path / "leaf.pem",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def text(pem):
    command = ["openssl", "x509", "-noout", "-text"]
    return subprocess.run(command, input=pem, capture_output=True, text=True, check=True).stdout


def test_the_authority_itself(tmp_path, authority):
    shown = text(authority.pem)
    assert "CA:TRUE, pathlen:0" in shown
    assert "Certificate Sign, CRL Sign" in shown
    assert "Digital Signature" not in shown
    assert "URI:spiffe://example.org\n" in shown
    assert "NIST CURVE: P-256" in shown
    assert verify(tmp_path, authority, authority.pem).returncode == 0
    life = authority.certificate.not_valid_after_utc - authority.certificate.not_valid_before_utc
    assert timedelta(days=3650) <= life <= timedelta(days=3651)


def test_a_node_is_a_client_only(tmp_path, authority):
    pem = authority.issue_node(new_key().public_key(), "edge-1", ADDRESSES)
    assert verify(tmp_path, authority, pem, "-purpose", "sslclient").returncode == 0
    as_server = verify(tmp_path, authority, pem, "-purpose", "sslserver")
    assert as_server.returncode != 0
    assert "unsuitable certificate purpose" in as_server.stderr
    assert verify(tmp_path, authority, pem, "-verify_ip", "192.168.2.143").returncode == 0
    assert verify(tmp_path, authority, pem, "-verify_ip", "192.168.2.144").returncode != 0
    shown = text(pem)
    assert (
        "URI:spiffe://example.org/node/edge-1, IP Address:192.168.2.143, IP Address:FD00:0:0:0:0:0:0:1"
        in shown
    )
    assert "TLS Web Client Authentication\n" in shown
    assert "Server Authentication" not in shown
    assert "CA:FALSE" in shown
    assert "X509v3 Key Usage: critical\n                Digital Signature\n" in shown


def test_a_server_is_both(tmp_path, authority):
    pem = authority.issue_server(new_key().public_key(), "s-1", ADDRESSES, ["tunnel.example.org"])
    for purpose in ("sslserver", "sslclient"):
        assert verify(tmp_path, authority, pem, "-purpose", purpose).returncode == 0
    assert verify(tmp_path, authority, pem, "-verify_hostname", "tunnel.example.org").returncode == 0
    assert verify(tmp_path, authority, pem, "-verify_hostname", "other.example.org").returncode != 0
    assert "URI:spiffe://example.org/server/s-1" in text(pem)


def test_a_caller_is_a_client_only(tmp_path, authority):
    pem = authority.issue_caller(new_key().public_key(), "prometheus")
    assert verify(tmp_path, authority, pem, "-purpose", "sslclient").returncode == 0
    assert verify(tmp_path, authority, pem, "-purpose", "sslserver").returncode != 0
    assert "URI:spiffe://example.org/caller/prometheus" in text(pem)


def test_what_a_request_claims_is_not_read(tmp_path, authority):
    config = tmp_path / "evil.cnf"
    config.write_text(
        "[req]\ndistinguished_name=dn\nreq_extensions=ext\nprompt=no\n[dn]\nCN=root\nO=system:masters\n"
        "[ext]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\nextendedKeyUsage=serverAuth\n"
        "subjectAltName=URI:spiffe://example.org/server/evil,DNS:tunnel.example.org,IP:203.0.113.5\n"
    )
    command = ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
               "-keyout", tmp_path / "evil.key", "-config", config]  # fmt: skip
    request = subprocess.run(command, capture_output=True, check=True).stdout
    shown = subprocess.run(
        ["openssl", "req", "-noout", "-text"], input=request, capture_output=True, check=True
    )
    assert b"CA:TRUE" in shown.stdout
    assert b"server/evil" in shown.stdout
    shown = text(authority.issue_node(read_request(request), "edge-1", ADDRESSES[:1]))
    for claim in (
        "CA:TRUE",
        "Certificate Sign",
        "Server Auth",
        "evil",
        "masters",
        "tunnel.example.org",
        "203.0.113",
    ):
        assert claim not in shown
    assert "URI:spiffe://example.org/node/edge-1, IP Address:192.168.2.143\n" in shown


def test_a_node_cannot_sign_another(tmp_path, authority):
    key, victim = new_key(), new_key()
    node = authority.issue_node(key.public_key(), "edge-1", ())
    rogue = Authority(key, x509.load_pem_x509_certificate(node.encode()), "example.org")
    forged = rogue.issue_node(victim.public_key(), "edge-2", ())
    (tmp_path / "node.pem").write_text(node)
    found = verify(tmp_path, authority, forged, "-untrusted", str(tmp_path / "node.pem"))
    assert found.returncode != 0


def test_another_authority_of_the_same_domain_is_another(tmp_path, authority):
    other, _ = Authority.make("example.org")
    assert other.hash != authority.hash
    assert other.certificate.subject != authority.certificate.subject
    assert verify(tmp_path, other, authority.issue_node(new_key().public_key(), "a", ())).returncode != 0


def test_times(authority):
    now = datetime(2030, 1, 1, tzinfo=UTC)
    pem = authority.issue_node(new_key().public_key(), "a", (), life=timedelta(days=7), now=now)
    node = x509.load_pem_x509_certificate(pem.encode())
    assert node.not_valid_before_utc == now - BACK_DATED == now - timedelta(hours=1)
    assert node.not_valid_after_utc == now + timedelta(days=7)
    end = authority.certificate.not_valid_after_utc
    late = authority.issue_node(new_key().public_key(), "a", (), now=end - timedelta(days=1))
    assert x509.load_pem_x509_certificate(late.encode()).not_valid_after_utc == end
    with pytest.raises(StateError, match="expired"):
        authority.issue_node(new_key().public_key(), "a", (), now=end)


def test_serials_are_random(authority):
    key = new_key().public_key()
    serials = {
        x509.load_pem_x509_certificate(authority.issue_node(key, "a", ()).encode()).serial_number
        for _ in range(20)
    }
    assert len(serials) == 20
    assert max(serials).bit_length() > 100


def test_a_long_name_is_in_the_uri(tmp_path, authority):
    name = ".".join(["a" * 49] * 5)
    pem = authority.issue_node(new_key().public_key(), name, ())
    assert verify(tmp_path, authority, pem).returncode == 0
    assert f"URI:spiffe://example.org/node/{name}" in text(pem)


def test_it_is_found_again(state, authority):
    again = Authority.load(state)
    assert (again.hash, again.domain, again.pem) == (authority.hash, "example.org", authority.pem)
    with pytest.raises(StateError, match="already"):
        Authority.create(state, "example.org")


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("ca.key", None, "no ca.key: run `tunnelctl init`"),
        ("ca.crt", None, "no ca.crt: run `tunnelctl init`"),
        ("ca.key", b"x", "ca.key is not an unencrypted private key in PEM: restore"),
        ("ca.crt", b"x", "ca.crt is not an authority's certificate"),
        ("ca.key", key_pem(new_key()), "does not belong to"),
    ],
)
def test_a_damaged_one_is_named(state, authority, name, data, why):
    with state.transaction() as transaction:
        transaction.write({name: data or b""})
    if data is None:
        (state.path / name).unlink()
    with pytest.raises(StateError, match=why):
        Authority.load(state)


def test_a_readable_key_is_refused(state, authority):
    (state.path / "ca.key").chmod(0o644)
    with pytest.raises(StateError, match="chmod 600"):
        Authority.load(state)


def handshake(server, client, hostname):
    upward, downward = ssl.MemoryBIO(), ssl.MemoryBIO()
    accepting = server.wrap_bio(upward, downward, server_side=True)
    dialling = client.wrap_bio(downward, upward, server_hostname=hostname)
    for _flight in range(4):
        for end in (dialling, accepting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return accepting, dialling


def contexts(tmp_path, authority, server_pem, server_key):
    (tmp_path / "ca.pem").write_text(authority.pem)
    (tmp_path / "s.pem").write_bytes(server_pem.encode() + key_pem(server_key))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "s.pem")
    server.load_verify_locations(tmp_path / "ca.pem")
    server.verify_mode = ssl.CERT_OPTIONAL
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(tmp_path / "ca.pem")
    return server, client


def test_a_nodes_address_cannot_pose_as_a_server(tmp_path, authority):
    key = new_key()
    node = authority.issue_node(key.public_key(), "edge-1", [ip_address("192.168.2.143")])
    server, client = contexts(tmp_path, authority, node, key)
    with pytest.raises(ssl.SSLCertVerificationError, match="unsuitable certificate purpose"):
        handshake(server, client, "192.168.2.143")


def test_tls_and_identity_of_both_ends(tmp_path, authority):
    server_key, node_key = new_key(), new_key()
    pem = authority.issue_server(server_key.public_key(), "s-1", [ip_address("203.0.113.5")], [])
    server, client = contexts(tmp_path, authority, pem, server_key)
    node = authority.issue_node(node_key.public_key(), "edge-1", ADDRESSES)
    (tmp_path / "n.pem").write_bytes(node.encode() + key_pem(node_key))
    client.load_cert_chain(tmp_path / "n.pem")
    accepting, dialling = handshake(server, client, "203.0.113.5")
    assert Identity.from_peer_certificate(accepting.getpeercert()).uri == "spiffe://example.org/node/edge-1"
    assert Identity.from_peer_certificate(dialling.getpeercert()).uri == "spiffe://example.org/server/s-1"
