import ipaddress
import shutil
import ssl
import subprocess
import time
from datetime import UTC, datetime, timedelta

import pytest

from certs.identity import Identity, Role
from tunnel_agent.credentials import CredentialsError, check_server, load_credentials
from tunnel_agent.tls_errors import TlsFailedError

OWN = Identity("tunnel.test", Role.NODE, "edge-1")


def peer(*uris: str) -> dict[str, object]:
    return {"subjectAltName": tuple(("URI", uri) for uri in uris)}


def test_what_joining_left_is_read(pki):
    state = pki.state(servers=["192.0.2.1:443", "tunnel.example"], addresses=["192.168.2.143", "fd00::7"])
    credentials = load_credentials(state)
    assert credentials.identity == OWN
    assert credentials.addresses == {ipaddress.ip_address("192.168.2.143"), ipaddress.ip_address("fd00::7")}
    assert list(map(str, credentials.servers)) == ["192.0.2.1:443", "tunnel.example:10262"]
    assert credentials.not_before < time.time() < credentials.not_after
    assert credentials.context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert credentials.context.verify_mode is ssl.CERT_REQUIRED
    assert credentials.context.check_hostname
    assert credentials.clock_problem(time.time()) is None
    assert credentials.proxy == ""


def test_the_proxy_that_joining_went_through(pki):
    credentials = load_credentials(pki.state(proxy="http://user:hunter2@proxy.example:3128"))
    assert credentials.proxy == "http://user:hunter2@proxy.example:3128"
    assert "hunter2" not in repr(credentials)


@pytest.mark.parametrize("proxy", ['"ftp://u:secret@x"', "7"])
def test_a_damaged_proxy_is_named_without_its_password(pki, proxy):
    state = pki.state(proxy="none")
    (state / "agent.json").write_text((state / "agent.json").read_text().replace('"none"', proxy))
    with pytest.raises(CredentialsError, match=r"agent\.json is damaged") as caught:
        load_credentials(state)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("attested", [True, False])
def test_a_node_without_addresses(pki, attested):
    credentials = load_credentials(pki.state(addresses=[], attested=attested))
    assert (credentials.addresses, credentials.attested) == (frozenset(), attested)


@pytest.mark.parametrize("missing", ["node.key", "node.crt", "ca.crt", "agent.json"])
def test_a_missing_file_means_not_joined(pki, missing):
    state = pki.state()
    (state / missing).unlink()
    with pytest.raises(
        CredentialsError, match=rf"has not joined: .*state has no {missing}; .*`tunnel-agent join"
    ):
        load_credentials(state)


def test_a_missing_directory_means_not_joined(tmp_path):
    with pytest.raises(
        CredentialsError, match=r"has not joined: .*nowhere has no node\.key; .*tunnel-agent join"
    ):
        load_credentials(tmp_path / "nowhere")


def test_a_key_that_others_can_read_is_refused(pki):
    state = pki.state()
    (state / "node.key").chmod(0o640)
    with pytest.raises(
        CredentialsError, match=r"node\.key can be read by others \(mode 0640\): run `chmod 600"
    ):
        load_credentials(state)


@pytest.mark.parametrize("damaged", ["node.key", "node.crt", "ca.crt", "agent.json"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff\x00", b'{"servers": 7}'])
def test_damage_is_named(pki, damaged, content):
    state = pki.state()
    (state / damaged).write_bytes(content)
    with pytest.raises(CredentialsError, match=damaged.replace(".", r"\.")) as caught:
        load_credentials(state)
    assert "\n" not in str(caught.value)
    assert "join" in str(caught.value)


def test_an_encrypted_key_asks_nobody_for_a_password(pki):
    state = pki.state()
    key = state / "node.key"
    command = [
        "openssl",
        "pkey",
        "-in",
        key,
        "-aes256",
        "-passout",
        "pass:secret",
        "-out",
        tmp := state / "new",
    ]
    subprocess.run(command, check=True, capture_output=True)
    tmp.rename(key)
    key.chmod(0o600)
    with pytest.raises(CredentialsError, match=r"node\.key can't be used"):
        load_credentials(state)


def test_a_key_of_another_certificate_is_named(pki):
    state, other = pki.state(), pki.state("other")
    shutil.copy(other / "node.key", state / "node.key")
    with pytest.raises(CredentialsError, match=r"key values mismatch"):
        load_credentials(state)


def test_a_certificate_of_another_authority_is_named(pki, tmp_path):
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    other = type(pki)(directory).state()
    state = pki.state()
    shutil.copy(other / "ca.crt", state / "ca.crt")
    with pytest.raises(CredentialsError, match=r"node\.crt does not verify with ca\.crt"):
        load_credentials(state)


def test_an_expired_certificate_loads_and_says_so(pki, long_ago):
    credentials = load_credentials(pki.state(now=long_ago, life=timedelta(days=90)))
    problem = credentials.clock_problem(time.time())
    assert problem is not None
    assert "expired on" in problem
    assert f"the clock of this machine says {datetime.now(UTC):%Y-%m-%d}" in problem
    assert "tunnel-agent join" in problem


def test_a_certificate_of_the_future_loads_and_blames_the_clock(pki):
    credentials = load_credentials(pki.state())
    problem = credentials.clock_problem(5.0)
    assert problem is not None
    assert "the clock of this machine says 1970-01-01 00:00:05 UTC" in problem
    assert "set the clock" in problem


def test_renewed_files_count_at_the_next_loading(pki):
    state, renewed = pki.state(), pki.state("renewed", node="edge-9")
    assert load_credentials(state).identity.name == "edge-1"
    for name in ("node.key", "node.crt", "agent.json"):
        (renewed / name).rename(state / name)
    assert load_credentials(state).identity.name == "edge-9"


def test_a_server_of_our_domain_is_one():
    assert check_server("tunnel/1", peer("spiffe://tunnel.test/server/main"), OWN).name == "main"


@pytest.mark.parametrize(
    "certificate",
    [
        peer("spiffe://tunnel.test/node/edge-2"),
        peer("spiffe://tunnel.test/caller/ops"),
        peer("spiffe://other.test/server/main"),
        peer("spiffe://tunnel.test/server/main", "spiffe://tunnel.test/server/other"),
        peer(),
        {},
        None,
    ],
)
def test_nothing_else_is_a_server(certificate):
    with pytest.raises(TlsFailedError, match="what answers there is") as caught:
        check_server("tunnel/1", certificate, OWN)
    assert caught.value.kind == "not-a-server"


@pytest.mark.parametrize("alpn", [None, "http/1.1", "h2"])
def test_another_protocol_is_no_tunnel(alpn):
    with pytest.raises(TlsFailedError, match="does not offer tunnel/1"):
        check_server(alpn, peer("spiffe://tunnel.test/server/main"), OWN)
