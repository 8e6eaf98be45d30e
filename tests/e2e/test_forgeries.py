"""Who is not who they say: forged and stolen identities against a living session, its API and its renewal."""

import http.client
import json
import ssl
import tempfile
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.authority import Authority
from certs.files import StateDirectory
from certs.requests import key_pem, load_key, new_key
from tests.e2e.hostile import Besieged, HostileAgent, node_context, public_port
from tests.e2e.network import dial
from tests.e2e.system import CLOUD, EDGE_1, EDGE_2, System
from tunnel_agent.credentials import CERTIFICATE, KEY
from tunnel_wire.hello import new_id
from tunnel_wire.tls import strict_context

DAY = timedelta(days=1)
ADDRESS = ip_address(EDGE_1)

Forgery = Callable[[System, Authority], tuple[str, bytes]]
"""A certificate (with its chain) and its key, PEM."""


def _other_authority(_: System, authority: Authority) -> tuple[str, bytes]:
    stranger, key = Authority.make(authority.domain)[0], new_key()
    return stranger.issue_node(key.public_key(), "edge-1", [ADDRESS]) + stranger.pem, key_pem(key)


def _signed_by_a_node(system: System, authority: Authority) -> tuple[str, bytes]:
    state, key = system.agent_state(system.topology.edge(2)), new_key()
    pem = (state / CERTIFICATE).read_text()
    node = Authority(load_key((state / KEY).read_bytes()), x509.load_pem_x509_certificate(pem.encode()), "x")
    node.domain = authority.domain
    return node.issue_node(key.public_key(), "edge-1", [ADDRESS]) + pem, key_pem(key)


def _itself(_: System, authority: Authority) -> tuple[str, bytes]:
    key, now = new_key(), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edge-1")])
    uri = x509.UniformResourceIdentifier(f"spiffe://{authority.domain}/node/edge-1")
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM).decode(), key_pem(key)


def _as_caller(_: System, authority: Authority) -> tuple[str, bytes]:
    key = new_key()
    return authority.issue_caller(key.public_key(), "edge-1"), key_pem(key)


def _as_server(_: System, authority: Authority) -> tuple[str, bytes]:
    key = new_key()
    return authority.issue_server(key.public_key(), "edge-1", [ADDRESS], ["edge-1"]), key_pem(key)


def _expired(_: System, authority: Authority) -> tuple[str, bytes]:
    key, then = new_key(), datetime.now(UTC) - 3 * DAY
    return authority.issue_node(key.public_key(), "edge-1", [ADDRESS], life=DAY, now=then), key_pem(key)


def _not_yet_valid(_: System, authority: Authority) -> tuple[str, bytes]:
    key, then = new_key(), datetime.now(UTC) + 3 * DAY
    return authority.issue_node(key.public_key(), "edge-1", [ADDRESS], now=then), key_pem(key)


def _of_another_domain(_: System, authority: Authority) -> tuple[str, bytes]:
    key = new_key()
    authority.domain = "elsewhere.test"
    return authority.issue_node(key.public_key(), "edge-1", [ADDRESS]), key_pem(key)


FORGERIES: dict[str, Forgery | None] = {
    "none at all": None,
    "another authority's of the same name": _other_authority,
    "one that a node has signed": _signed_by_a_node,
    "one that names the authority and is signed by itself": _itself,
    "a caller's": _as_caller,
    "a server's": _as_server,
    "an expired one": _expired,
    "one of the future": _not_yet_valid,
    "one of another domain": _of_another_domain,
}


def _context(system: System, name: str, protocol: str) -> ssl.SSLContext:
    context = strict_context(server_side=False)
    context.set_alpn_protocols([protocol])
    authority = Authority.load(StateDirectory(system.state))
    context.load_verify_locations(cadata=authority.pem)
    forge = FORGERIES[name]
    if forge is not None:
        certificate, key = forge(system, authority)
        with tempfile.TemporaryDirectory() as directory:
            (both := Path(directory, "both.pem")).write_bytes(key + certificate.encode())
            context.load_cert_chain(both)
    return context


@pytest.mark.parametrize("name", FORGERIES)
def test_a_living_session_is_taken_by_no_forged_certificate(name: str, besieged: Besieged) -> None:
    system = besieged.system
    edge = system.topology.edge(2)
    with besieged.nobody_else_feels_it():
        try:
            with HostileAgent.link(edge, _context(system, name, "tunnel/1"), "edge-1") as agent:
                agent.goaway()
        except (ConnectionError, ssl.SSLError):
            pass  # cut in the handshake, or behind it
        # A caller may renew, as the caller that it is.
        for path in ("/v1/renew", "/v1/identity") if name != "a caller's" else ():
            try:
                status, answer = _post(
                    system, _context(system, name, "http/1.1"), path, {"csr": "x", "roots": []}
                )
            except (ConnectionError, ssl.SSLError):
                continue
            assert status in {401, 403}, answer


def test_an_edge_is_itself_whatever_it_says(besieged: Besieged) -> None:
    """By hello, by the session that it names, and by what it asks to have certified."""
    system = besieged.system
    edge = system.topology.edge(2)
    with besieged.nobody_else_feels_it():
        for session in ("", new_id()):
            with HostileAgent.link(edge, node_context(system, edge), "edge-1", session=session) as agent:
                assert agent.goaway() == 0
    assert 'hello as "edge-1" from a link with the certificate of edge-2' in system.log("server")


def test_a_renewal_certifies_what_the_authority_knows(besieged: Besieged) -> None:
    system = besieged.system
    edge, authority = system.topology.edge(2), Authority.load(StateDirectory(system.state))
    names = [
        x509.UniformResourceIdentifier(f"spiffe://{authority.domain}/node/edge-1"),
        x509.UniformResourceIdentifier(f"spiffe://{authority.domain}/server/edge-1"),
        x509.IPAddress(ADDRESS),
        x509.IPAddress(ip_address("169.254.169.254")),
        x509.DNSName("localhost"),
    ]
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edge-1")]))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(new_key(), hashes.SHA256())
    )
    context = node_context(system, edge)
    context.set_alpn_protocols(["http/1.1"])
    status, answer = _post(system, context, "/v1/renew", {"csr": csr.public_bytes(Encoding.PEM).decode()})
    assert status == 200, answer
    assert (answer["name"], answer["addresses"]) == ("edge-2", [EDGE_2])
    made = x509.load_pem_x509_certificate(str(answer["certificate"]).encode())
    known = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each) for each in known.get_values_for_type(x509.IPAddress)] == [EDGE_2]
    assert known.get_values_for_type(x509.UniformResourceIdentifier) == [
        f"spiffe://{authority.domain}/node/edge-2"
    ]
    assert not known.get_values_for_type(x509.DNSName)
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    with dial(system.topology.cloud, (EDGE_1, 9081)) as caller:  # and edge-1's address is edge-1's
        caller.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b'"machine": "edge-1"' in b"".join(iter(lambda: caller.recv(4096), b""))


def _post(system: System, context: ssl.SSLContext, path: str, body: object) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection(CLOUD)
    connection.sock = public_port(system.topology.edge(2), context)
    with closing(connection):
        connection.request("POST", path, json.dumps(body))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
